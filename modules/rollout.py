"""What one PPO iteration has sampled, and how its rows are laid out for a training forward."""

from typing import NamedTuple

import torch
from torch import Tensor


class Rollout(NamedTuple):
    """One iteration's samples: B sequences, P prompt tokens, R response tokens."""

    prompt_ids: Tensor
    """(B, P) int64, padded on the left"""
    prompt_mask: Tensor
    """(B, P) bool"""
    response_ids: Tensor
    """(B, R) int64, the pad id after the end"""
    response_mask: Tensor
    """(B, R) bool, up to and with the eos that ended it"""
    logprobs: Tensor
    """(B, R) of the policy that sampled, at the sampling temperature; 0 outside the mask"""
    ref_logprobs: Tensor
    """(B, R) of the reference, at the same temperature"""
    values: Tensor
    """(B, R) the critic's value before each token"""
    scores: Tensor
    """(B,) the reward model's, centred, clipped, less the penalty for a missing eos"""
    rewards: Tensor
    """(B, R) KL penalty at every token, score at the last"""
    advantages: Tensor
    """(B, R) whitened over the iteration"""
    returns: Tensor
    """(B, R) advantages before whitening + values"""

    def select(self, rows: Tensor) -> "Rollout":
        """The rows named by an index tensor."""
        return Rollout(*(field[rows] for field in self))

    def joined(self) -> "Sequences":
        """Prompts and responses as training rows."""
        return join(self.prompt_ids, self.prompt_mask, self.response_ids, self.response_mask)


class Sequences(NamedTuple):
    """Prompts and responses joined and padded on the right: T tokens."""

    input_ids: Tensor
    """(B, T) int64"""
    labels: Tensor
    """(B, T) int64, the response's tokens, −100 elsewhere"""
    position_ids: Tensor
    """(B, T) int64"""
    document_ids: Tensor
    """(B, T) int64: 0, −1 = padding"""
    prompt_lengths: Tensor
    """(B,) int64"""

    def at_response(self, per_token: Tensor, width: int, shift: int = 0) -> Tensor:
        """(B, T) → (B, width): the entries at each row's response tokens, moved by `shift` places; 0 beyond
        the row."""
        columns = self.prompt_lengths[:, None] + torch.arange(width, device=per_token.device) + shift
        found = per_token.gather(1, columns.clamp(max=per_token.shape[1] - 1))
        return found.where(columns < per_token.shape[1], 0)

    def at_end(self, per_token: Tensor) -> Tensor:
        """(B, T) → (B,): the entry at each row's last token."""
        return per_token.gather(1, (self.document_ids >= 0).sum(1, keepdim=True) - 1).squeeze(1)


def join(prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor) -> Sequences:
    """Lays rollouts out as training rows: no left padding, so plain causal attention is exact."""
    ids = torch.cat([prompt_ids, response_ids], dim=1)
    prompt_lengths, lengths = prompt_mask.sum(1), prompt_mask.sum(1) + response_mask.sum(1)
    padding = prompt_mask.shape[1] - prompt_lengths
    places = torch.arange(int(lengths.max()), device=ids.device).expand(len(ids), -1)
    kept = places < lengths[:, None]
    input_ids = ids.gather(1, (places + padding[:, None]).clamp(max=ids.shape[1] - 1))
    in_response = kept & (places >= prompt_lengths[:, None])
    return Sequences(
        input_ids=torch.where(kept, input_ids, 0),
        labels=torch.where(in_response, input_ids, -100),
        position_ids=places,
        document_ids=torch.where(kept, 0, -1),
        prompt_lengths=prompt_lengths,
    )
