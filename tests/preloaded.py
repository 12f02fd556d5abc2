"""What the processes of `ranks.py` are forked with: everything that a command imports, out of the garbage
collection's way, which would copy every page of it in each of them."""

import gc
import importlib

import datamodules
import modules

MODULES = [
    "experiments.commands.fit",
    "transformers.models.llama.modeling_llama",
    "torch.nn.modules.linear_cross_entropy",
    "deepspeed",
    "deepspeed.runtime.zero.muon.muon_optimizer",  # by every engine, and all of torch.compile with it
    "attrs",  # by jsonargparse
    "pytest",  # by test files whose callbacks a rank has
    "psutil",
]

gc.disable()
for module in MODULES:
    importlib.import_module(module)
for library in (modules, datamodules):
    for name in library.__all__:
        getattr(library, name)
gc.enable()
gc.freeze()
