"""What a rank needs for moments of a step, beside states and activations: parameters brought together,
gradients on their way to where they belong, the head's gradient, copies for the optimizer.

Which of them exist together was measured, on CPU processes over gloo (`tests/test_memory_measured.py`).
"""

from typing import Literal, NamedTuple

from experiments.plan.memory import DEEPSPEED, REDUCE_BUCKET, Layout

GATHERING = ("fsdp", "tensor_parallel", "zero3")
"""strategies that split parameters and bring them together to compute"""
PERSISTENT = 100_000  # numbers: the default of `strategies.deepspeed`
Offload = Literal["none", "optimizer", "parameters"]


class Options(NamedTuple):
    """What a strategy is told that changes memory."""

    offload: Offload = "none"
    """states that are not on the device: the optimizer's with the gradients it reads, or all"""
    to_disk: bool = False
    """whether they go to a disk instead of the machine's memory"""
    bucket: int = REDUCE_BUCKET
    """bytes of gradients that DeepSpeed reduces together"""
    persistent: int = PERSISTENT
    """numbers up to which stage 3 leaves a parameter whole"""
    gathered_width: int | None = None
    """bytes of a parameter that FSDP2 has brought together; None = as in its shard"""
    reshard: bool = True
    """whether FSDP2 frees a block between its forward and its backward pass"""
    gather_to_sample: bool = True
    """whether a network is whole on every rank while it samples, where its parameters are split"""


class Shape(NamedTuple):
    """What a rank's buffers depend on."""

    parameters: int
    """of all models"""
    trained: int
    """of those that are trained"""
    block: int
    """of one repeated block"""
    outside: int
    """outside the blocks: embeddings, head, last norm"""
    head: int
    """of the head that the loss is computed with; 0 = none"""


class Moments(NamedTuple):
    """Bytes beyond the states at the moments of a step that can be its fullest."""

    forward: int
    """the loss is being computed, all activations are there"""
    backward: int
    """the head's gradient is being computed, all activations are there"""
    reducing: int
    """the first gradients are reduced, most activations are there"""
    reduced: int
    """the last gradients are reduced, no activations are left"""
    step: int
    """the optimizer's step"""


def gathered_bytes(
    strategy: str, ranks: int, shape: Shape, layout: Layout, options: Options, whole: bool = False
) -> int:
    """Parameters that are whole while a block computes: what is outside the blocks, the block, and the buffer
    its parts arrive in. FSDP2 without resharding leaves all blocks whole.

    Args:
        strategy: one of `STRATEGIES`.
        ranks: over which data is split.
        shape: numbers of parameters.
        layout: bytes a parameter.
        options: of the strategy.
        whole: all blocks stay whole, as while a network samples.
    """
    if strategy not in GATHERING or ranks == 1:
        return 0
    width = options.gathered_width or layout.weights
    if strategy != "zero3" and (whole or not options.reshard):
        return (shape.parameters + shape.block) * width
    if whole:  # DeepSpeed's parts arrive in place
        return shape.parameters * width
    return min(2 * shape.block + shape.outside, shape.parameters) * width


def reduce_bytes(
    strategy: str, ranks: int, shape: Shape, layout: Layout, options: Options
) -> tuple[int, int]:
    """Gradients on their way, when the first are reduced and when the last are.

    DDP makes its buckets anew after the first step, and the old ones are there until the second ends. FSDP2
    has a block's gradients whole, and the parts it sends. ZeRO-1 and 2 fill two buckets in turn and copy what
    goes to a rank; ZeRO-3 sends a bucket's copy from another.

    Returns:
        Bytes; ZeRO-3's own bucket, which always exists, is not among them (see `resting_bucket`).
    """
    gradients = shape.trained * layout.gradients
    if strategy in DEEPSPEED:
        bucket = min(options.bucket, gradients)
        if strategy == "zero3":
            return 2 * bucket, 2 * bucket
        part = min(bucket, -(-gradients // ranks))
        return bucket + part, min(2 * bucket, gradients) + part
    if ranks == 1:
        return 0, 0
    block = 2 * shape.block * layout.gradients
    return (0, gradients) if strategy == "ddp" else (block, block)


def resting_bucket(strategy: str, shape: Shape, layout: Layout, options: Options) -> int:
    """Bytes of the bucket that ZeRO-3 never frees."""
    return min(options.bucket, shape.trained * layout.gradients) if strategy == "zero3" else 0


def head_bytes(head: int, layout: Layout, half: bool) -> tuple[int, int]:
    """What `F.linear_cross_entropy` takes for a moment in its forward and in its backward pass.

    In fp32 the gradient of the head's weight. In 16 bits (measured with torch 2.13 on CPU) the forward pass
    has fp32 copies of parts of the weight, the backward pass the gradient in 16 bits and in fp32, a part's
    product and the weight in fp32; under autocast the weight's copy in 16 bits and its fp32 gradient too.

    Args:
        head: parameters of the head.
        layout: bytes a parameter.
        half: whether products are computed in 16 bits.
    """
    if not half:
        return 0, 4 * head
    cast = layout.weights > 2
    return (6 if cast else 4) * head, (20 if cast else 16) * head


def step_bytes(strategy: str, ranks: int, shape: Shape, layout: Layout) -> int:
    """DeepSpeed's copies for the optimizer: the gradients of a rank's part in a row, and again in fp32."""
    if strategy not in DEEPSPEED:
        return 0
    return -(-shape.trained * (layout.gradients + 4) // ranks)


def moments(
    strategy: str,
    ranks: int,
    shape: Shape,
    layout: Layout,
    options: Options,
    activations: int,
    logits: int,
    absent: int,
    freed: int = 0,
    half: bool = False,
) -> Moments:
    """Bytes beyond the states at each moment.

    Args:
        strategy: one of `STRATEGIES`.
        ranks: over which data is split.
        shape: numbers of parameters.
        layout: bytes a parameter.
        options: of the strategy.
        activations: bytes that wait for the backward pass.
        logits: bytes of those that exist together.
        absent: bytes of the states' gradients that are not there when a backward pass begins.
        freed: bytes of them that are gone again when the last are reduced.
        half: whether products are computed in 16 bits.
    """
    gathered = gathered_bytes(strategy, ranks, shape, layout, options)
    first_reduced, last_reduced = reduce_bytes(strategy, ranks, shape, layout, options)
    head_forward, head_backward = head_bytes(shape.head, layout, half)
    gradients = shape.trained * layout.gradients
    first = min(options.bucket, gradients) if strategy in DEEPSPEED else shape.block * layout.gradients
    left = 1 - first / gradients if gradients else 1.0
    return Moments(
        forward=activations + logits + head_forward + gathered,
        backward=activations + logits + head_backward + gathered - absent,
        reducing=round(left * (activations - absent)) + gathered + first_reduced,
        reduced=gathered + last_reduced - freed,
        step=step_bytes(strategy, ranks, shape, layout),
    )
