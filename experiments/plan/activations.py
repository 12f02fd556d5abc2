"""The tensors that wait for a network's backward pass, counted before any weights exist, on fake tensors."""

import json
from functools import cache
from statistics import fmean
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, PretrainedConfig

from experiments.plan.network_sizes import build
from experiments.plan.upstream import GroupedProducts, storage_id, tensors_without_memory
from modules.backbone import repeated_blocks
from modules.errors import UserError
from modules.hf_config import in_a_line
from modules.probe import probe
from modules.probe_config import fields_of, small

DTYPES = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}  # by bytes a number
FEW = {"vocab_size": 8, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


class SavedActivations(NamedTuple):
    """Bytes a forward pass keeps for the backward pass."""

    block: float  # of one block; their mean where they differ
    outside: float  # of what is not in a block
    block_input: float  # of what goes into a block

    def in_all(self, layers: int, share: float = 1.0, checkpointing: bool = False) -> int:
        """Bytes that a network of so many blocks keeps, where a rank has a share of each block's; with
        checkpointing only the inputs of the blocks, and one block while it is computed again (Korthikanti et
        al. 2022, §5, "full")."""
        block = self.block * share
        inside = layers * self.block_input + block if checkpointing else layers * block
        return round(inside + self.outside)


def saved_activations(
    config: PretrainedConfig,
    rows: int,
    tokens: int,
    width: int = 4,
    half: bool = False,
) -> SavedActivations:
    """The tensors that the transformer keeps for its backward pass, as torch's autograd saves them on a CPU
    (where dropout of attention weights makes torch keep the whole score matrix).

    A network of two blocks of each kind is run forward on fake tensors. Weights are not counted, but their
    16-bit copies under autocast are. Counted once for all strategies.

    Args:
        config: the network's.
        rows: B, sequences of a forward.
        tokens: T, tokens of a sequence.
        width: bytes of a weight.
        half: whether matrix products are computed in 16 bits, where the weights are not.

    Raises:
        UserError: the network cannot be run, or what it keeps depends on what it computes.
    """
    try:
        block, outside = _kept(fields_of(config), rows, tokens, width, half and width > 2)
    except Exception as error:  # as many kinds as there are networks
        _check_runs(config)
        raise UserError(
            f"model: what `{config.model_type}` keeps for its backward pass cannot be counted before it runs "
            f"({in_a_line(error)}): `trivium fit` trains it without a plan"
        ) from error
    return SavedActivations(block, outside, rows * tokens * config.get_text_config().hidden_size * width)


def _check_runs(config: PretrainedConfig) -> None:
    """Refuses what training would refuse, which says better what is wrong with it."""
    try:
        probe(config)
    except UserError as error:
        raise UserError(f"model: {error}") from error


@cache
def _kept(fields: str, rows: int, tokens: int, width: int, casts: bool) -> tuple[float, float]:
    """Bytes of a block, and of what is in none."""
    options = {**json.loads(fields), **FEW}
    class_, dtype = CONFIG_MAPPING[options["model_type"]], DTYPES[width]
    few = build(class_.from_dict(small(options, 2, {})), "language", dtype)
    kinds = [_shapes(block) for block in repeated_blocks(few)]
    with tensors_without_memory(), GroupedProducts():
        few.to_empty(device="cpu").train()
        blocks, outside = _counted(few, rows, tokens, casts)
    if not all(blocks):
        raise UserError("no text goes through its blocks")
    if len(blocks) == 2:  # what all blocks share is counted with the first, and is in none of them
        return blocks[1], outside + blocks[0] - blocks[1]
    of_kind: dict[Any, list[int]] = {}
    for kind, size in zip(kinds, blocks, strict=True):
        of_kind.setdefault(kind, []).append(size)
    whole = repeated_blocks(build(class_.from_dict(options), "language"))
    sizes = [fmean(of_kind.get(_shapes(block), blocks)) for block in whole]
    return fmean(sizes), outside


def _shapes(block: nn.Module) -> tuple[tuple[str, torch.Size], ...]:
    """By which blocks of one kind are known."""
    return tuple((name, parameter.shape) for name, parameter in block.named_parameters())


def _counted(network: Any, rows: int, tokens: int, casts: bool) -> tuple[list[int], int]:
    """Bytes that each block of a network keeps in a forward pass, and what is in none."""
    problem: Exception | None = None
    # transformers' own attention on rows of one document; some must be told that they are whole
    for mask in (None, torch.ones(rows, 1, tokens, tokens, dtype=torch.bool)):
        inputs = {"input_ids": torch.zeros(rows, tokens, dtype=torch.int64), "attention_mask": mask}
        try:
            with torch.autocast("cpu", dtype=torch.bfloat16, enabled=casts):
                return _forward(network, inputs)
        except Exception as error:
            problem = problem or error
    assert problem is not None
    raise problem


def _forward(network: Any, inputs: dict[str, Any]) -> tuple[list[int], int]:
    """What a forward pass of the body keeps, without weights and masks, of which ours has none."""
    blocks, tokens = repeated_blocks(network), inputs["input_ids"].shape[1]
    bytes_of = [0] * (len(blocks) + 1)
    current = -1  # the last: outside the blocks
    owned = {storage_id(tensor) for tensor in (*network.parameters(), *network.buffers())}
    kept: dict[int, Tensor] = {}

    def pack(tensor: Tensor) -> Tensor:
        key = storage_id(tensor)
        if key not in owned and key not in kept and tensor.shape[-3:] != (1, tokens, tokens):
            kept[key] = tensor
            bytes_of[current] += tensor.untyped_storage().nbytes()
        return tensor

    def enter(block: int) -> None:
        nonlocal current
        current = block

    handles = []
    for number, block in enumerate(blocks):
        handles.append(block.register_forward_pre_hook(lambda *_, number=number: enter(number)))
        handles.append(block.register_forward_hook(lambda *_: enter(-1)))
    try:
        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            network.base_model(**inputs, use_cache=False)
    finally:
        for handle in handles:
            handle.remove()
    return bytes_of[:-1], bytes_of[-1]
