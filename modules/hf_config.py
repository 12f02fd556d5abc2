"""Hugging Face configs, and what transformers has against one, in a line that names the field or the file."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from huggingface_hub.errors import StrictDataclassError
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, AutoConfig, PretrainedConfig

from modules.errors import UserError

WRONG_VALUE = (
    StrictDataclassError,
    ValueError,
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    AssertionError,
    ImportError,
)
"""what wrong values of a config make transformers raise, when it reads them or builds the network"""
BALANCE = ("router_aux_loss_coef", "aux_loss_coef")
"""coefficients of a loss that spreads tokens over experts"""
COUNTS = ("vocab_size", "num_hidden_layers")
"""transformers' names of what a network has at least one of"""


def in_a_line(error: BaseException) -> str:
    """What an exception says, on one line; with its type where the text alone says little."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [type(error).__name__]
    if isinstance(error, StrictDataclassError):  # the last line is what its check raised
        return lines[-1].partition("Error: ")[2] or lines[-1]
    return lines[0] if isinstance(error, ValueError) else f"{type(error).__name__}: {lines[0]}"


@contextmanager
def named(where: str) -> Iterator[None]:
    """While it lasts, what transformers has against a config becomes a `UserError` of one line, which begins
    with the field or file `where` it is."""
    try:
        yield
    except WRONG_VALUE as error:
        raise UserError(f"{where}: {in_a_line(error).rstrip('.')}") from error


def new_config(config: dict[str, Any], vocab_size: int, where: str) -> PretrainedConfig:
    """The config of a causal language model from scratch, without a pad id; `vocab_size` is filled in when
    missing, and a refusal names it as `where`.

    Raises:
        UserError: no or an unknown `model_type`, an unknown field or a wrong value.
    """
    options = {"vocab_size": vocab_size, **config}
    model_type = options.pop("model_type", None)
    try:
        known = AutoConfig.for_model(model_type)
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"{where}: `model_type: {model_type}` is not one transformers knows: give for example `llama`"
        ) from error
    _check_kind(known, where)
    for name in ("bos_token_id", "eos_token_id"):
        default = getattr(known, name, None)
        if isinstance(default, int) and isinstance(vocab := options["vocab_size"], int) and default >= vocab:
            options.setdefault(name, 0)  # until the tokenizer's comes: GPT-2's 50256 may not be there
    unknown = [f"`{name}`" for name in options if not hasattr(known, str(name))]
    if unknown:
        text = known.get_text_config().model_type
        part = "" if text == model_type else f": the network of its texts alone is `{text}`"
        raise UserError(f"{where} of `{model_type}` has no field {', '.join(unknown)}{part}")
    with named(where):
        hf_config = AutoConfig.for_model(model_type, **{**options, "pad_token_id": None})
    _check_architecture(hf_config, where)
    return hf_config


def saved_config(path: str, where: str, local_files_only: bool = False) -> PretrainedConfig:
    """The config of a causal language model, or of one with another head, from where it was saved.

    Args:
        path: a Hugging Face directory or hub name.
        where: what to call it in a refusal.
        local_files_only: whether a hub name must be in the cache.

    Raises:
        OSError: there is none, or it is no JSON.
        UserError: transformers does not know the model, or a value is wrong.
    """
    file = f"{path}/config.json" if Path(path).is_dir() else path
    with named(f"{where}: {file}"):
        config = AutoConfig.from_pretrained(path, local_files_only=local_files_only, trust_remote_code=False)
    _check_architecture(config, f"{where}: {file}")
    return config


def _check_kind(config: PretrainedConfig, where: str) -> None:
    model: Any = MODEL_FOR_CAUSAL_LM_MAPPING.get(type(config), None)
    if model is None:
        raise UserError(
            f"{where}: `{config.model_type}` is no causal language model in transformers: give one that is, "
            "for example `llama`"
        )


def _check_architecture(config: PretrainedConfig, where: str) -> None:
    _check_kind(config, where)
    text: Any = config.get_text_config()
    for field in COUNTS:
        count = getattr(text, field, None)
        if isinstance(count, int) and count < 1:  # of no layers transformers makes a network, too
            name = (text.attribute_map or {}).get(field, field)
            raise UserError(f"{where}: {name} is {count}: give 1 or more")
    coefficients = {name: getattr(text, name, None) for name in BALANCE}
    blocks = getattr(text, "ffn_config", None)  # DBRX's
    coefficients["moe_loss_weight"] = getattr(blocks, "moe_loss_weight", None)
    for name, value in coefficients.items():
        if value and getattr(text, "output_router_logits", False):  # else transformers adds nothing either
            raise UserError(
                f"{where}: `{config.model_type}` has output_router_logits true and {name} {value}, a balance "
                "loss of its experts that is not added here: set `output_router_logits: false`"
            )
