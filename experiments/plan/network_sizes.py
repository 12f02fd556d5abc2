"""How large a network is, found out from its Hugging Face config before any weights exist, on the meta
device."""

from fnmatch import fnmatch
from typing import Any, Literal, NamedTuple, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from experiments.cli.user_errors import UserError
from modules.backbone import repeated_blocks
from modules.hf_config import new_config, saved_config

Head = Literal["language", "scalar"]
AUTO: dict[str, Any] = {
    "language": transformers.AutoModelForCausalLM,
    "scalar": transformers.AutoModelForSequenceClassification,
}


class Sizes(NamedTuple):
    """A network's parameters by what they are, and its shape."""

    parameters: int  # all of them, tied ones once
    matmul: int
    """those of matrices a token is multiplied with: the head, tied or not, but no embedding and no vector"""
    block: int  # those of the largest repeated block
    outside: int  # those outside the blocks
    splittable: int  # those that the model's own plan for tensor parallelism splits; 0 = it has none
    layers: int
    hidden: int
    heads: int
    kv_heads: int
    head_size: int
    vocabulary: int
    buffers: int  # bytes of what is neither weight nor activation, such as rotary frequencies
    linear: dict[str, tuple[int, int]]  # name → (in, out) of every matrix in the blocks
    head: int  # those of the language head, tied or not; 0 = it has none
    embeddings: int  # those of embedding tables and of the head, tied ones once
    tensors: tuple[int, ...]  # numbers of each parameter tensor, tied ones once


def read_config(source: str | dict[str, Any], vocabulary: int | None, field: str) -> PretrainedConfig:
    """A network's config from a directory (or a cached hub name), or from a dict with its `model_type`, whose
    `vocab_size` is the tokenizer's where it has none.

    Raises:
        UserError: it is not there, cannot be read, has no model type or vocabulary, or a wrong value; naming
            the field.
    """
    if isinstance(source, str):
        try:
            return saved_config(source, field, local_files_only=True)
        except OSError as error:
            raise UserError(
                f"{field}: {source} holds no config.json of a network that transformers knows: run the stage "
                "that writes it first, or name another directory or a cached hub name"
            ) from error
    if "vocab_size" not in source and vocabulary is None:
        raise UserError(f"{field}: no vocab_size, and no tokenizer to take it from: give one of them")
    return new_config(source, vocabulary or 0, field)


def build(config: PretrainedConfig, head: Head, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """The network without weights, on the meta device."""
    config.pad_token_id = 0  # an embedding's, which is in any vocabulary
    if head == "scalar":
        config.num_labels = 1
    with torch.device("meta"):
        return AUTO[head].from_config(config, dtype=dtype)


def sizes(config: PretrainedConfig, head: Head = "language") -> Sizes:
    """A network's sizes from its config alone.

    Raises:
        UserError: it has no repeated blocks.
    """
    model = build(config, head)
    blocks = repeated_blocks(model)
    in_blocks, total = [_count(block) for block in blocks], _count(model)
    embeddings = [module.weight for module in model.modules() if isinstance(module, nn.Embedding)]
    output = model.get_output_embeddings() if head == "language" else None
    tied = output is not None and any(output.weight is weight for weight in embeddings)
    not_multiplied = [*embeddings, *(p for p in model.parameters() if p.ndim < 2)]
    head_weights = 0 if output is None else cast(Tensor, output.weight).numel()
    heads = _largest(config, "num_attention_heads")
    hidden = config.get_text_config().hidden_size
    return Sizes(
        parameters=total,
        matmul=total - sum(p.numel() for p in not_multiplied) + (head_weights if tied else 0),
        block=max(in_blocks, default=0),
        outside=total - sum(in_blocks),
        splittable=_splittable(model),
        layers=len(blocks),
        hidden=hidden,
        heads=heads,
        kv_heads=_largest(config, "num_key_value_heads") or heads,
        head_size=_largest(config, "head_dim") or hidden // max(heads, 1),
        vocabulary=config.get_text_config().vocab_size,
        buffers=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
        linear=_matrices(nn.ModuleList(blocks)),
        head=head_weights,
        embeddings=sum(weight.numel() for weight in embeddings) + (0 if tied else head_weights),
        tensors=tuple(p.numel() for p in model.parameters()),
    )


def _largest(config: PretrainedConfig, name: str) -> int:
    """A field of the layers' attention, the largest where layers differ; 0 = they have none, as where states
    take its place."""
    text: Any = config.get_text_config()
    layers = getattr(text, "per_layer_config", None) if hasattr(text, "num_hidden_layers") else None
    return max(getattr(layer, name, None) or 0 for layer in layers or [text])


def _count(module: nn.Module) -> int:
    return sum(p.numel() for p in module.parameters())


def _matrices(blocks: nn.ModuleList) -> dict[str, tuple[int, int]]:
    shapes = {}
    for name, module in blocks.named_modules():
        weight = getattr(module, "weight", None)
        if isinstance(weight, Tensor) and weight.ndim == 2 and not isinstance(module, nn.Embedding):
            first, second = weight.shape
            # nn.Linear stores (out, in), GPT-2's Conv1D (in, out)
            shapes[name] = (second, first) if isinstance(module, nn.Linear) else (first, second)
    return shapes


def _splittable(model: PreTrainedModel) -> int:
    """Parameters that the config's `base_model_tp_plan` splits by columns or rows."""
    plan = getattr(model.config, "base_model_tp_plan", None) or {}
    patterns = [f"{name}.weight" for name, style in plan.items() if style.startswith(("colwise", "rowwise"))]
    patterns += [f"{name}.bias" for name, style in plan.items() if style.startswith("colwise")]
    parameters = model.base_model.named_parameters()
    return sum(p.numel() for name, p in parameters if any(fnmatch(name, pattern) for pattern in patterns))
