"""What the processes of `ranks.py` are forked with: everything that a command imports, out of the garbage
collection's way, which would copy every page of it in each of them."""

import gc
import importlib

gc.disable()
for module in ("experiments.commands.fit", "deepspeed", "transformers.models.llama.modeling_llama"):
    importlib.import_module(module)
gc.enable()
gc.freeze()
