"""The head of a language model: logits as the network itself gives them, and losses without ever holding
them all."""

from typing import Any, NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor
from torch.utils.checkpoint import checkpoint
from transformers import PretrainedConfig

from modules.linear_cross_entropy import linear_cross_entropy

CHUNK = 512  # tokens whose logits exist at the same time, at least
GPU_LOGITS = 2**28  # logits that a GPU may hold at the same time (1 GiB in fp32), which keep it busy
MULTIPLIERS = ("logit_scale", "lm_head_multiplier")
DIVISORS = ("logits_scaling",)
SOFT_CAPS = ("final_logit_softcapping",)


class Head(NamedTuple):
    """What a network does to hidden states after its last norm: cap(scale · (W h + b))."""

    scale: float = 1.0
    softcap: float | None = None
    """c of c · tanh(logit / c)"""

    @classmethod
    def of(cls, config: PretrainedConfig) -> "Head":
        """As a config says it; the probe compares it with the network."""
        text: Any = config.get_text_config()
        scale = 1.0
        for name in MULTIPLIERS:
            scale *= getattr(text, name, None) or 1.0
        for name in DIVISORS:
            scale /= getattr(text, name, None) or 1.0
        caps = [getattr(text, name, None) for name in SOFT_CAPS]
        return cls(scale, next((cap for cap in caps if cap), None))

    def logits(self, hidden: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
        """(…, D) → (…, V)."""
        logits = F.linear(hidden, weight, bias) * self.scale
        return logits if self.softcap is None else self.softcap * torch.tanh(logits / self.softcap)

    def losses(
        self, hidden: Tensor, weight: Tensor, bias: Tensor | None, labels: Tensor, temperature: float
    ) -> Tensor:
        """The negative log-probability of each label when all logits are divided by a temperature.

        Args:
            hidden: (N, D); its dtype is that of the matrix products, `weight` (V, D) and `bias` (V,) have it.
            labels: (N,) int64, −100 = none.
            temperature: what the logits are divided by, the bias with them.

        Returns:
            (N,) fp32, 0 where there is no label.
        """
        if self.softcap is None:
            factor = self.scale / temperature
            bias = bias if bias is None or factor == 1 else bias * factor
            hidden = hidden if factor == 1 else hidden * factor
            chunk = chunk_size(len(weight), hidden.is_cuda)
            return linear_cross_entropy(hidden, weight, labels, bias, chunk).float()

        def part(hidden: Tensor, labels: Tensor) -> Tensor:
            logits = self.logits(hidden, weight, bias).float() / temperature
            return F.cross_entropy(logits, labels, reduction="none")

        chunk = chunk_size(len(weight), hidden.is_cuda)
        chunks = zip(hidden.split(chunk), labels.split(chunk), strict=True)
        return torch.cat([checkpoint(part, *each, use_reentrant=False) for each in chunks])


def chunk_size(vocabulary: int, on_gpu: bool) -> int:
    """Tokens whose logits exist at the same time: so many that a GPU's kernels are worth their launch."""
    return max(CHUNK, GPU_LOGITS // vocabulary) if on_gpu else CHUNK
