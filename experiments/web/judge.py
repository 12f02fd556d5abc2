"""What others say of a reply, by token or as a whole: a reference model, PPO's critic, a reward model."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoModelForSequenceClassification, AutoModelForTokenClassification

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import reply as answer
from datamodules.rendering.whole_text import encode_batch
from experiments.chat.prompts import transcript
from experiments.cli.user_errors import UserError
from experiments.evaluation.engine import Model, tokenizer_of
from modules.hf_config import saved_config
from modules.hf_load import load_scalar_model, read_provenance
from modules.probe import scalar_model
from modules.rollout import join, logprobs, scores


def device() -> str:
    """Where judges compute."""
    return "cuda" if torch.cuda.is_available() else "cpu"


class Scorer:
    """A reward model with the tokenizer of its own that it reads replies by.

    Args:
        path: its Hugging Face directory.
    """

    def __init__(self, path: str):
        self.tokenizer = tokenizer_of(path, "serve")
        model: Any = load_scalar_model(path).float().eval()
        offset = read_provenance(path).get("offset", 0.0)
        self.network = scalar_model(model.to(device()), offset).eval()
        self.positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)

    def score(self, messages: list[dict[str, str]], reply: str) -> float:
        """The centred score of a reply, read as the rows that the model was trained on.

        Raises:
            UserError: the reply is empty, or longer than the model's positions.
        """
        if not reply.strip():
            raise UserError("an empty reply has no score")
        if self.tokenizer.chat_template:
            segments = ChatTemplate().answered({"messages": messages}, reply, 0, self.tokenizer)
        else:
            given = transcript(self.tokenizer, messages, "")
            segments = given + answer(reply, self.tokenizer)
        ids = encode_batch(self.tokenizer, [segments])[0].ids.tolist()
        if self.positions is not None and len(ids) > self.positions:
            raise UserError(
                f"the reward model has {self.positions} positions, the conversation {len(ids)} tokens"
            )
        rows = join(*_row(ids[:-1], device()), *_row(ids[-1:], device()))
        return float(scores(self.network, rows)[0])


class Critic:
    """PPO's critic, as its export has it.

    Args:
        path: the directory `critic` in the export.
    """

    def __init__(self, path: str):
        names = saved_config(path, "serve", local_files_only=True).architectures or ()
        tokens = any(name.endswith("ForTokenClassification") for name in names)
        kind: Any = AutoModelForTokenClassification if tokens else AutoModelForSequenceClassification
        self.offset = 0.0 if tokens else read_provenance(path).get("offset", 0.0)
        self.tokens = tokens
        self.model: Any = kind.from_pretrained(Path(path)).float().eval().to(device())

    @torch.no_grad()
    def values(self, prompt: Sequence[int], reply: Sequence[int]) -> list[float]:
        """The value before each token of a reply: what the critic expects the reply's end to be worth."""
        ids = torch.tensor([[*prompt, *reply]], device=device())
        first = len(prompt) - 1
        if self.tokens:
            values: Tensor = self.model(input_ids=ids, use_cache=False).logits[0, :, 0]
        else:  # it reads at the last token alone
            ends = range(len(prompt), ids.shape[1])
            read = [self.model(input_ids=ids[:, :end], use_cache=False).logits[0, 0] for end in ends]
            return [float(value) - self.offset for value in read]
        return values[first : ids.shape[1] - 1].tolist()


@torch.no_grad()
def reply_logprobs(model: Model, prompt: Sequence[int], reply: Sequence[int]) -> list[float]:
    """The log-probability of each token of a reply, at temperature 1, by one forward as training does it."""
    rows = join(*_row(prompt, model.device), *_row(reply, model.device))
    return logprobs(model.network, rows, len(reply), 1.0)[0].tolist()


def _row(ids: Sequence[int], place: Any) -> tuple[Tensor, Tensor]:
    row = torch.tensor([list(ids)], device=place)
    return row, torch.ones_like(row, dtype=torch.bool)
