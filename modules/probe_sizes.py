"""Whether a network runs with its own sizes, of which its probe-size copy says nothing: found out without
weights, on no device."""

import re
from collections.abc import Callable
from copy import deepcopy
from typing import Any

import torch
from transformers import PretrainedConfig

from modules.errors import UserError
from modules.hf_config import in_a_line
from modules.probe_config import two_layers

TOKENS = 8
NO_FIT = re.compile(
    "size of tensor|to broadcast a dimension|is invalid for input of size|cannot be multiplied|dropout prob"
)
"""what torch says of sizes that do not go together; it also refuses what only lacks memory here"""


def check_sizes(config: PretrainedConfig, small: PretrainedConfig, auto_class: Any) -> None:
    """Refuses what a probe-size copy does not have or show: heads that do not divide each other, a dropout
    above 1.

    Args:
        config: of the network. Two layers of it are run, or all where these cannot be.
        small: of its copy, which runs. Where it does not run without weights, nothing is known.
        auto_class: transformers' maker of such networks.

    Raises:
        UserError: transformers cannot run the network.
    """
    problem = _problem(two_layers, config, auto_class)
    if problem is None or not NO_FIT.search(str(problem)) or not _problem(deepcopy, config, auto_class):
        return
    if _problem(deepcopy, small, auto_class, training=False) is not None:
        return
    text: Any = config.get_text_config()
    names = ("num_attention_heads", "num_key_value_heads")
    heads, shared = (getattr(text, name, None) for name in names)
    if isinstance(heads, int) and isinstance(shared, int) and (shared < 1 or heads % shared):
        raise UserError(f"{names[0]} is {heads}, no multiple of {names[1]}, {shared}: give a divisor of it")
    raise UserError(
        f"transformers cannot run `{config.model_type}` with these sizes: {in_a_line(problem)}"
    ) from problem


def _problem(
    copy: Callable[[PretrainedConfig], PretrainedConfig],
    config: PretrainedConfig,
    auto_class: Any,
    training: bool = True,
) -> Exception | None:
    """What is raised when the copy of a config is made, built and run; None where nothing is."""
    # attention that tells of its dropout, and the dtype in which torch has experts' products without memory
    options = {"attn_implementation": "eager", "dtype": torch.bfloat16}
    try:
        with torch.device("meta"):
            model = auto_class.from_config(copy(config), **options).train(training)
            ids = torch.zeros(1, TOKENS, dtype=torch.int64)
            mask = torch.zeros(1, 1, TOKENS, TOKENS, dtype=torch.bfloat16)  # given none, it reads one
            model(input_ids=ids, attention_mask=mask, use_cache=False)
    except Exception as error:  # whatever transformers and torch raise
        return error
    return None
