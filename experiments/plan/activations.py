"""Activations of a transformer that wait for the backward pass, by formula: Korthikanti et al. 2022,
"Reducing Activation Recomputation in Large Transformer Models", §4 and §5, of 16-bit GPT with dropout.

`trivium plan --config` counts a network's own tensors instead (`network_sizes`), whatever its blocks are;
from here it takes what tensor parallelism and recomputation leave of them.
"""

from typing import NamedTuple


class Block(NamedTuple):
    """The shape of a transformer block and of what runs through it."""

    sequence: int
    """s, tokens of a row"""
    batch: int
    """b, rows of a micro-batch"""
    hidden: int
    """h, numbers of a token"""
    heads: int
    """a, attention heads"""


def block_bytes(
    block: Block, tensor: int = 1, sequence_parallel: bool = False, score_matrix: bool = True
) -> float:
    """Bytes that one block keeps on each device: s·b·h·(34 + 5·a·s/h) on one.

    Tensor parallelism divides attention and MLP by t but not the two norms, their dropouts and the inputs of
    both, s·b·h·(10 + 24/t + 5·a·s/(h·t)); sequence parallelism divides those as well (equations 1, 2 and 4).

    Args:
        block: s, b, h, a.
        tensor: t, devices that share a block.
        sequence_parallel: whether norms and dropouts are split too.
        score_matrix: whether the a·s·s attention scores are kept; `scaled_dot_product_attention` and
            "selective recomputation" (equation 6) do not, and the term 5·a·s/h falls away.
    """
    s, b, h, a = block
    scores = 5 * a * s / h if score_matrix else 0.0
    whole = 34 / tensor if sequence_parallel else 10 + 24 / tensor
    return s * b * h * (whole + scores / tensor)


def recomputed_bytes(block: Block) -> float:
    """Bytes that one block keeps when all of it is computed again: its input, 2·s·b·h (§5, "full")."""
    s, b, h, _ = block
    return 2.0 * s * b * h


def tensor_parallel_share(tensor: int) -> float:
    """What tensor parallelism leaves on a device of a block without score matrix: (10 + 24/t) / 34."""
    return (10 + 24 / tensor) / 34


def network_bytes(
    layers: int, block: float, outside: float, block_input: float, checkpointing: bool = False
) -> int:
    """Bytes that a whole network keeps.

    Args:
        layers: blocks.
        block: bytes one block keeps.
        outside: bytes kept outside the blocks.
        block_input: bytes of a block's input.
        checkpointing: keep only the inputs of the blocks, and one block while it is computed again.
    """
    inside = layers * block_input + block if checkpointing else layers * block
    return round(inside + outside)
