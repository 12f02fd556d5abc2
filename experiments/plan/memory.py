"""What memory is counted in: bytes of a parameter, of a rank's states, of a step's moments, of a rank at its
fullest. Plain arithmetic without torch; what depends on the strategy is in `parallelism`."""

from typing import NamedTuple


class BytesPerParam(NamedTuple):
    """Bytes that a trained parameter takes, before anything is sharded."""

    weights: int
    gradients: int
    optimizer: int  # a master copy of the weights, where there is one, and the moments

    @property
    def total(self) -> int:
        """Bytes in all."""
        return sum(self)


class States(BytesPerParam):
    """Bytes of what a rank holds between two steps, by the same three parts."""


BYTES_PER_PARAM = {
    "mixed": BytesPerParam(2, 2, 12),  # Rajbhandari et al. 2020, §3.1: fp32 weights, momentum and variance
    "fp32": BytesPerParam(4, 4, 8),
    "bf16-autocast": BytesPerParam(4, 4, 8),  # autocast computes in bf16, the states are fp32's
    "bf16": BytesPerParam(2, 2, 4),  # everything in bf16, no master copy
}
"""what --layout names"""


class Params(NamedTuple):
    """The parameters on which a rank's buffers depend, as far as tensor parallelism leaves them there."""

    parameters: int  # of all networks
    trained: int  # of those that are trained
    block: int  # of one repeated block
    outside: int  # outside the blocks: embeddings, head, last norm
    head: int  # of the head that the loss is computed with; 0 = none
    bytes_each: BytesPerParam

    @property
    def in_use(self) -> int:
        """Those that are whole while a block computes: what is outside the blocks, the block, and the buffer
        that its parts arrive in."""
        return min(2 * self.block + self.outside, self.parameters)

    @property
    def gradient_bytes(self) -> int:
        """Bytes of all gradients, whole."""
        return self.trained * self.bytes_each.gradients

    @property
    def block_gradient_bytes(self) -> int:
        """Bytes of a block's gradients, whole."""
        return self.block * self.bytes_each.gradients

    def head_bytes(self, half: bool) -> tuple[int, int]:
        """What `F.linear_cross_entropy` takes for a moment in its forward and in its backward pass.

        In fp32 the gradient of the head's weight. With products in 16 bits (`half`; measured with torch 2.13
        on CPU) the forward pass has fp32 copies of parts of the weight, the backward pass the gradient in 16
        bits and in fp32, a part's product and the weight in fp32; under autocast the weight's copy in 16 bits
        and its fp32 gradient too.
        """
        if not half:
            return 0, 4 * self.head
        is_cast = self.bytes_each.weights > 2
        return (6 if is_cast else 4) * self.head, (20 if is_cast else 16) * self.head


class Buffers(NamedTuple):
    """Bytes beside states and activations that a strategy needs for moments of a step."""

    gathered: int = 0  # parameters that are brought together for a block
    first_gradients: int = 0  # gradients that there are when the first of them are reduced
    reducing: int = 0  # gradients on their way then
    reduced: int = 0  # gradients on their way when the last are reduced
    step: int = 0  # copies that the optimizer's step takes
    resting: int = 0  # what is never freed


class Moments(NamedTuple):
    """Bytes beyond the states at the moments of a step that can be its fullest."""

    forward: int  # the loss is being computed, all activations are there
    backward: int  # the head's gradient is being computed, all activations are there
    reducing: int  # the first gradients are reduced, most activations are there
    reduced: int  # the last gradients are reduced, no activations are left
    step: int  # the optimizer's step


class MemoryEstimate(NamedTuple):
    """Bytes of one rank at its fullest, by what they are for."""

    weights: int
    gradients: int
    optimizer: int
    activations: int
    logits: int
    buffers: int
    kv_cache: int  # of sequences that are sampled together
    sampling: int = 0  # what else sampling takes at its fullest: a network that is whole, logits
    absent: int = 0  # gradients among the states that are gone while it samples
    host: int = 0
    """states that are offloaded, and averages: bytes in the machine's memory or on its disk, not on the
    device"""

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


def kv_cache_bytes(layers: int, kv_heads: int, head_size: int, tokens: int, rows: int, width: int) -> int:
    """Keys and values of `rows` sequences of `tokens` tokens, in numbers of `width` bytes: for each layer and
    key-value head a vector of the head's size as key, and one as value."""
    return 2 * layers * kv_heads * head_size * tokens * rows * width


def logits_bytes(tokens: int, vocabulary: int, chunk: int) -> int:
    """Logits that exist at the same time when the loss goes through a forward's tokens in chunks, in fp32;
    torch's chunked linear cross-entropy works on them in place."""
    return min(tokens, chunk) * vocabulary * 4
