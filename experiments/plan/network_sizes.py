"""How large a network is, found out from its Hugging Face config before any weights exist: parameters on the
meta device, and the tensors that wait for the backward pass, counted on fake tensors."""

import json
from fnmatch import fnmatch
from functools import cache
from typing import Any, Literal, NamedTuple, cast

import torch
import transformers
from torch import Tensor, nn
from transformers import PretrainedConfig, PreTrainedModel

from experiments.cli.user_errors import UserError
from experiments.plan.upstream import storage_id, tensors_without_memory
from modules.backbone import repeated_blocks
from modules.hf_config import new_config, saved_config

Head = Literal["language", "scalar"]
DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}  # by bytes a number
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


class SavedActivations(NamedTuple):
    """Bytes a forward pass keeps for the backward pass."""

    block: float  # of one block
    outside: float  # of what is not in a block
    block_input: float  # of what goes into a block

    def in_all(self, layers: int, share: float = 1.0, checkpointing: bool = False) -> int:
        """Bytes that a network of so many blocks keeps, where a rank has a share of each block's; with
        checkpointing only the inputs of the blocks, and one block while it is computed again (Korthikanti et
        al. 2022, §5, "full")."""
        block = self.block * share
        inside = layers * self.block_input + block if checkpointing else layers * block
        return round(inside + self.outside)


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


def build(
    config: PretrainedConfig, head: Head, device: str = "meta", dtype: torch.dtype = torch.float32
) -> PreTrainedModel:
    """The network without weights; the caller may be in a fake tensor mode instead of on `meta`."""
    config.pad_token_id = None
    if head == "scalar":
        config.num_labels = 1
    with torch.device(device):
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
    text = config.get_text_config()
    heads = text.num_attention_heads
    return Sizes(
        parameters=total,
        matmul=total - sum(p.numel() for p in not_multiplied) + (head_weights if tied else 0),
        block=max(in_blocks, default=0),
        outside=total - sum(in_blocks),
        splittable=_splittable(model),
        layers=len(blocks),
        hidden=text.hidden_size,
        heads=heads,
        kv_heads=getattr(text, "num_key_value_heads", None) or heads,
        head_size=getattr(text, "head_dim", None) or text.hidden_size // heads,
        vocabulary=text.vocab_size,
        buffers=sum(buffer.numel() * buffer.element_size() for buffer in model.buffers()),
        linear=_matrices(nn.ModuleList(blocks)),
        head=head_weights,
        embeddings=sum(weight.numel() for weight in embeddings) + (0 if tied else head_weights),
        tensors=tuple(p.numel() for p in model.parameters()),
    )


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


def saved_activations(
    config: PretrainedConfig,
    rows: int,
    tokens: int,
    width: int = 4,
    half: bool = False,
) -> SavedActivations:
    """The tensors that the transformer keeps for its backward pass, as torch's autograd saves them on a CPU
    (where dropout of attention weights makes torch keep the whole score matrix).

    A network of one block and one of two are run forward on fake tensors: their difference is a block's.
    Weights are not counted, but their 16-bit copies under autocast are. Counted once for all strategies.

    Args:
        config: the network's.
        rows: B, sequences of a forward.
        tokens: T, tokens of a sequence.
        width: bytes of a weight.
        half: whether matrix products are computed in 16 bits, where the weights are not.
    """
    kind: Any = type(config)  # the cache needs arguments that hash
    text, casts = config.to_json_string(), half and width > 2
    one, two = (_saved_bytes(kind, text, layers, rows, tokens, width, casts) for layers in (1, 2))
    block_input = rows * tokens * config.get_text_config().hidden_size * width
    return SavedActivations(block=two - one, outside=max(0, 2 * one - two), block_input=block_input)


@cache
def _saved_bytes(kind: Any, text: str, layers: int, rows: int, tokens: int, width: int, casts: bool) -> int:
    few = {"vocab_size": 8, "bos_token_id": None, "eos_token_id": None}
    small = kind.from_dict({**json.loads(text), **few})
    small.num_hidden_layers = layers  # whatever the network's config calls it
    with tensors_without_memory():
        model = build(small, "language", "cpu", DTYPES[width]).train()
        ids = torch.zeros(rows, tokens, dtype=torch.int64)
        # transformers' own attention on rows of one document; ours has no mask, which is not counted then
        mask = torch.ones(rows, 1, tokens, tokens, dtype=torch.bool)
        owned = {storage_id(tensor) for tensor in (*model.parameters(), *model.buffers())}
        kept: dict[int, Tensor] = {}

        def pack(tensor: Tensor) -> Tensor:
            is_mask = tensor.shape[-3:] == (1, tokens, tokens)
            if storage_id(tensor) not in owned and not is_mask:
                kept.setdefault(storage_id(tensor), tensor)
            return tensor

        autocast = torch.autocast("cpu", dtype=torch.bfloat16, enabled=casts)
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor), autocast:
            model.base_model(input_ids=ids, attention_mask=mask, use_cache=False)
        return sum(tensor.untyped_storage().nbytes() for tensor in kept.values())
