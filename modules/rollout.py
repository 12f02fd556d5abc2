"""PPO's four models under one root, what one iteration has sampled, and how its rows are laid out for a
training forward."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor, nn

from modules.backbone import LanguageModel, ScalarModel, disable_dropout
from modules.errors import UserError
from modules.rollout_view import ShownRollout, field_errors, table
from modules.showing import as_html, as_text


class Rollout(NamedTuple):
    """One iteration's samples: B sequences, P prompt tokens, R response tokens."""

    prompt_ids: Tensor
    """(B, P) int64, padded on the left"""
    prompt_mask: Tensor
    """(B, P) bool"""
    response_ids: Tensor
    """(B, R) int64, the pad id after the end"""
    response_mask: Tensor
    """(B, R) bool, up to and with the stop token that ended it"""
    logprobs: Tensor
    """(B, R) of the policy that sampled, at the sampling temperature; 0 outside the mask"""
    ref_logprobs: Tensor
    """(B, R) of the reference, at the same temperature"""
    values: Tensor
    """(B, R) the critic's value before each token"""
    scores: Tensor
    """(B,) the reward model's, centred, clipped, less the penalty for a missing end"""
    rewards: Tensor
    """(B, R) KL penalty at every token, score at the last"""
    advantages: Tensor
    """(B, R) whitened over the iteration"""
    returns: Tensor
    """(B, R) advantages before whitening + values"""

    @classmethod
    def sampled(cls, prompt_ids: Tensor, prompt_mask: Tensor, response_ids: Tensor, response_mask: Tensor):
        """With responses; what is computed from them is 0 until it is filled in."""
        zeros = torch.zeros_like(response_ids, dtype=torch.float32)
        prompts_and_responses = (prompt_ids, prompt_mask, response_ids, response_mask)
        return cls(*prompts_and_responses, zeros, zeros, zeros, zeros[:, 0], zeros, zeros, zeros)

    def select(self, rows: Tensor) -> "Rollout":
        """The rows named by an index tensor."""
        return Rollout(*(field[rows] for field in self))

    def kl_per_sequence(self) -> Tensor:
        """(B,) the KL to the reference that each response has summed up, in nats (k1)."""
        return ((self.logprobs - self.ref_logprobs) * self.response_mask).sum(1)

    def ended(self, stop_token_ids: Sequence[int]) -> Tensor:
        """(B,) bool: whether a response ended by itself, with a stop token within the limit."""
        stops = torch.tensor(stop_token_ids, device=self.response_ids.device)
        return (torch.isin(self.response_ids, stops) & self.response_mask).any(1)

    def __repr__(self) -> str:
        return as_text(table(self))

    def _repr_html_(self) -> str:
        return as_html(table(self))

    def show(self, tokenizer: Any, by: str = "advantages", rows: int = 4) -> ShownRollout:
        """What shows itself with the text of the first `rows`, each response token coloured by a field.

        Raises:
            UserError: no field (B, R) of that name.
        """
        if problem := field_errors(self, by):
            raise UserError(problem)
        return ShownRollout(self, tokenizer, by, rows)

    def replies(
        self, rows: Sequence[int], tokenizer: Any, stop_token_ids: Sequence[int]
    ) -> list[dict[str, Any]]:
        """For each sequence that is a row of the data (≥ 0): the row, what was asked and answered, the score,
        the KL in nats, the response's tokens and whether it ended by itself."""
        kl, ended = self.kl_per_sequence(), self.ended(stop_token_ids)
        return [
            {
                "row": row,
                "prompt": tokenizer.decode(self.prompt_ids[i][self.prompt_mask[i]]),
                "response": tokenizer.decode(
                    self.response_ids[i][self.response_mask[i]], skip_special_tokens=True
                ),
                "score": float(self.scores[i]),
                "kl": float(kl[i]),
                "tokens": int(self.response_mask[i].sum()),
                "ended": bool(ended[i]),
            }
            for i, row in enumerate(rows)
            if row >= 0
        ]

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
    groups: Tensor
    """(B,) int64: rows with the same prompt, which is computed once"""

    def at_response(self, per_token: Tensor, width: int, shift: int = 0) -> Tensor:
        """(B, T) → (B, width): the entries at each row's response tokens, moved by `shift` places; 0 beyond
        the row."""
        columns = self.prompt_lengths[:, None] + torch.arange(width, device=per_token.device) + shift
        entries = per_token.gather(1, columns.clamp(max=per_token.shape[1] - 1))
        return entries.where(columns < per_token.shape[1], 0)

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
        groups=prompt_ids.unique(dim=0, return_inverse=True)[1],
    )


class ActorCritic(nn.Module):
    """The four models of PPO; always in eval mode, since dropout would make ρ ≠ 1 at the first inner step."""

    def __init__(
        self, actor: LanguageModel, critic: ScalarModel, reference: LanguageModel, reward: ScalarModel
    ):
        super().__init__()
        self.actor, self.critic, self.reference, self.reward = actor, critic, reference, reward
        disable_dropout(self)
        self.reference.requires_grad_(False)
        self.reward.requires_grad_(False)

    def train(self, mode: bool = True) -> "ActorCritic":
        return super().train(False)

    def forward(self, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and values (B, R) of a rollout's response tokens by actor and critic."""
        rows, width = rollout.joined(), rollout.response_ids.shape[1]
        return logprobs(self.actor, rows, width, temperature), values(self.critic, rows, width)


def logprobs(model: LanguageModel, rows: Sequences, width: int, temperature: float) -> Tensor:
    """(B, width) log-probs of the response tokens, 0 after the end."""
    inputs = rows.input_ids, rows.labels, rows.position_ids, rows.document_ids
    losses = model(*inputs, temperature, rows.groups)
    return -rows.at_response(losses, width)


def values(model: ScalarModel, rows: Sequences, width: int) -> Tensor:
    """(B, width) values before each response token, read at the token before it."""
    per_token = model(rows.input_ids, rows.position_ids, rows.document_ids, rows.groups)
    return rows.at_response(per_token, width, shift=-1)


@torch.no_grad()
def scores(model: ScalarModel, rows: Sequences) -> Tensor:
    """(B,) scores at the last token of each sequence."""
    return rows.at_end(model(rows.input_ids, rows.position_ids, rows.document_ids, rows.groups))


def minibatch_order(seed: int, iteration: int, rows: int, parts: int) -> Iterator[tuple[Tensor, ...]]:
    """Passes over the rows of an iteration without end, each in an order of its own and split into `parts`.

    The order is a function of (seed, iteration, pass) alone. `spawn_key` keeps it apart from the random
    numbers of the sampling, which are seeded with (seed, iteration, prompt): without it NumPy would take
    (seed, iteration) for the same as (seed, iteration, 0).
    """
    generator = np.random.default_rng(np.random.SeedSequence((seed, iteration), spawn_key=(1,)))
    while True:
        yield torch.from_numpy(generator.permutation(rows)).chunk(parts)
