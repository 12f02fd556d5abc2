"""What every run imports, for a server to import once."""

import deepspeed  # noqa: F401
import transformers.models.llama.modeling_llama  # noqa: F401

import experiments.commands.fit  # noqa: F401
