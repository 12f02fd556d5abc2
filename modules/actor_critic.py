"""PPO's four models under one root: actor and critic train, reference and reward model are frozen."""

import torch
from torch import Tensor, nn

from modules.backbone import LanguageModel, ScalarModel, disable_dropout
from modules.rollout import Rollout, Sequences


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
    losses = model(rows.input_ids, rows.labels, rows.position_ids, rows.document_ids, temperature)
    return -rows.at_response(losses, width)


def values(model: ScalarModel, rows: Sequences, width: int) -> Tensor:
    """(B, width) values before each response token, read at the token before it."""
    return rows.at_response(model(rows.input_ids, rows.position_ids, rows.document_ids), width, shift=-1)


@torch.no_grad()
def scores(model: ScalarModel, rows: Sequences) -> Tensor:
    """(B,) scores at the last token of each sequence."""
    return rows.at_end(model(rows.input_ids, rows.position_ids, rows.document_ids))
