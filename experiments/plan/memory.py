"""What a rank must hold: bytes of weights, gradients and optimizer states under each strategy, and what a
loss and a rollout need besides. Plain arithmetic; nothing is measured and nothing imported.
"""

from typing import NamedTuple

from experiments.cli.user_errors import UserError

STRATEGIES = ("ddp", "zero1", "zero2", "zero3", "fsdp", "tensor_parallel")
DEEPSPEED = ("zero1", "zero2", "zero3")
REDUCE_BUCKET = 200_000_000  # bytes of gradients: the default of `strategies.deepspeed`


class Layout(NamedTuple):
    """Bytes a trained parameter takes, before anything is sharded."""

    weights: int
    gradients: int
    optimizer: int
    """a master copy of the weights, where there is one, and the moments"""

    @property
    def total(self) -> int:
        """Bytes a parameter in all."""
        return sum(self)


LAYOUTS = {
    "mixed": Layout(2, 2, 12),  # Rajbhandari et al. 2020, §3.1: fp32 weights, momentum and variance
    "fp32": Layout(4, 4, 8),
    "bf16-autocast": Layout(4, 4, 8),  # the states are fp32's
    "bf16": Layout(2, 2, 4),  # everything in bf16, no master copy
}


WIDTHS = {
    "64-true": (8, 8),
    "32-true": (4, 4),
    "bf16-mixed": (4, 2),
    "16-mixed": (4, 2),
    "bf16-true": (2, 2),
    "16-true": (2, 2),
}
"""Lightning's precision → bytes of a weight in general, and under DeepSpeed, which makes the model 16-bit"""

SHORT = {"64": "64-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}


def layout_of(precision: str, strategy: str, moments: int = 2) -> Layout:
    """The layout that a Trainer's precision has under a strategy.

    DeepSpeed always keeps an fp32 copy of the weights beside the model's own, under fp32 too.

    Args:
        precision: Lightning's, such as `bf16-mixed`.
        strategy: one of `STRATEGIES`.
        moments: numbers an optimizer keeps for each parameter; Adam 2.

    Raises:
        UserError: a precision whose layout is not known.
    """
    precision = SHORT.get(str(precision), str(precision))
    if precision not in WIDTHS:
        raise UserError(f"trainer.precision is {precision}: the plan knows {', '.join(WIDTHS)}")
    width, engine_width = WIDTHS[precision]
    if strategy in DEEPSPEED:
        return Layout(engine_width, engine_width, 4 + 4 * moments)
    return Layout(width, width, width * moments)


class States(NamedTuple):
    """Bytes of a rank's states."""

    weights: int
    gradients: int
    optimizer: int

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self)


def states_per_rank(
    parameters: int,
    strategy: str,
    ranks: int,
    layout: Layout = LAYOUTS["mixed"],
    tensor: int = 1,
    cut: int = 0,
) -> States:
    """The states of a model on the rank that holds most of it.

    Rajbhandari et al. 2020, "ZeRO", §5: with 2 + 2 + 12 bytes a parameter, stage 1 holds (4 + 12/N)Ψ, stage 2
    (2 + 14/N)Ψ, stage 3 (and FSDP) 16Ψ/N.

    Args:
        parameters: trained ones, Ψ.
        strategy: one of `STRATEGIES`.
        ranks: N, over which data is split; under tensor parallelism what is left is sharded over them.
        layout: bytes a parameter.
        tensor: ranks over which `cut` of the parameters are split.
        cut: parameters that tensor parallelism splits; every rank holds the others.
    """
    sharded = SHARDED[strategy]
    mine = parameters - cut + -(-cut // tensor)
    return States(
        *(
            -(-mine * size // ranks) if part in sharded else mine * size
            for part, size in zip(States._fields, layout, strict=True)
        )
    )


SHARDED = {
    "ddp": (),
    "zero1": ("optimizer",),
    "zero2": ("gradients", "optimizer"),
    "zero3": ("weights", "gradients", "optimizer"),
    "fsdp": ("weights", "gradients", "optimizer"),
    "tensor_parallel": ("weights", "gradients", "optimizer"),
}
"""strategy → what is split over the data-parallel ranks (two-dimensional under tensor parallelism)"""


def kv_cache_bytes(layers: int, kv_heads: int, head_size: int, tokens: int, rows: int, width: int) -> int:
    """Keys and values of `rows` sequences of `tokens` tokens: 2 · layers · heads · size · tokens · rows.

    Args:
        layers: attention layers.
        kv_heads: key-value heads of a layer.
        head_size: numbers of a head.
        tokens: prompt and response.
        rows: sequences sampled together.
        width: bytes a number.
    """
    return 2 * layers * kv_heads * head_size * tokens * rows * width


def logits_bytes(tokens: int, vocabulary: int, chunk: int, width: int = 4) -> int:
    """Logits that exist at the same time when the loss goes through the tokens in chunks; torch's chunked
    linear cross-entropy works on them in place.

    Args:
        tokens: of a forward.
        vocabulary: V.
        chunk: tokens whose logits exist together.
        width: bytes a number; the loss is computed in fp32.
    """
    return min(tokens, chunk) * vocabulary * width


class Account(NamedTuple):
    """Bytes of one rank at its fullest, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    kv_cache: int
    """of sequences that are sampled together"""
    sampling: int = 0
    """what else sampling takes at its fullest: a network that is whole, logits"""
    absent: int = 0
    """gradients among the states that are gone while it samples"""
    host: int = 0
    """states that are offloaded: bytes in the machine's memory or on its disk, not on the device"""

    @property
    def states(self) -> int:
        """Weights, gradients and optimizer, as far as they are on the device."""
        return self.weights + self.gradients + self.optimizer

    @property
    def update(self) -> int:
        """Bytes beyond the states at the fullest moment of an optimizer step."""
        return self.activations + self.logits + self.buffers

    @property
    def rollout(self) -> int:
        """Bytes beyond the states at the fullest moment of sampling; 0 = the run does not sample."""
        return self.kv_cache + self.sampling - self.absent

    @property
    def peak(self) -> int:
        """All that is on the device at once: updates and rollouts take turns."""
        return self.states + max(self.update, self.rollout)
