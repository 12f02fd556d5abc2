"""What a request adds to the logits before a token is sampled: OpenAI's `logit_bias`, `presence_penalty` and
`frequency_penalty`."""

from collections.abc import Mapping

import torch

BIAS = 100.0
"""with this bias a token is sampled alone, with its negative never"""


class Shift:
    """The sum of them for one reply, which its own tokens change.

    Args:
        presence: taken from the logit of each token that the reply has so far.
        frequency: taken from it for each time that the reply has it.
        bias: tokens, and what is added to their logits.
        vocabulary: tokens that can be sampled.
        device: where the logits are.
    """

    def __init__(
        self,
        presence: float,
        frequency: float,
        bias: Mapping[int, float],
        vocabulary: int,
        device: torch.device,
    ):
        self.presence, self.frequency = presence, frequency
        self._seen: set[int] = set()
        self.values = torch.zeros(vocabulary, device=device)
        """(V,) to add to the logits"""
        forced = [token for token, value in bias.items() if value >= BIAS]
        if forced:  # no logit of another token makes up for it
            self.values.fill_(-torch.inf)
            self.values[forced] = 0.0
        elif bias:
            values = [-torch.inf if value <= -BIAS else value for value in bias.values()]
            self.values[list(bias)] = torch.tensor(values, device=device)

    def count(self, token: int) -> None:
        """Takes a token of the reply into account: −presence · 1[count > 0] − frequency · count."""
        less = self.frequency
        if token not in self._seen:
            less += self.presence
            self._seen.add(token)
        self.values[token] -= less
