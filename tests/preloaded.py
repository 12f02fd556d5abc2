"""What the processes of `ranks.py` are forked with: everything that a command imports and finds out once of
the tests' network, out of the garbage collection's way, which would copy every page of it in each of them."""

import gc
import importlib
from pathlib import Path

import datamodules
import modules
from tests.tiny import TINY

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

CONFIGS = Path(__file__).resolve().parent.parent / "experiments/configs"

gc.disable()
for module in MODULES:
    importlib.import_module(module)
for library in (modules, datamodules):
    for name in library.__all__:
        getattr(library, name)


def find_out() -> None:
    """What is kept as long as a process lives: how the network is exact, transformers' patterns of weights'
    names, torch's rules for tensors without memory, and the options of the stages' classes."""
    from transformers.conversion_mapping import get_checkpoint_conversion_mapping

    from experiments.cli.parser import ParseOnly, parse
    from experiments.plan.activations import saved_activations
    from experiments.plan.config import fit_line
    from modules.hf_config import new_config
    from modules.probe import probe

    get_checkpoint_conversion_mapping("llama")
    config = new_config(TINY, 330, "tests")
    for scalar in (False, True):
        probe(config, scalar)
    saved_activations(config, 8, 32)
    for stage in ("pretrain", "sft", "reward", "ppo"):
        parse(fit_line([str(CONFIGS / f"{stage}.yaml")], []), ParseOnly)


find_out()
gc.enable()
gc.freeze()
