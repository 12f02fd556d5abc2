"""What happens to a row that cannot be trained on as it is, the same for every kind of data."""

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from datamodules.rendering.segments import DropRow, StopRun
from datamodules.rendering.tokenizer import double_bos, missing_eos
from datamodules.rendering.whole_text import Tokens

CutOrDrop = Literal["drop", "truncate_left", "error"]


@dataclass(frozen=True)
class Policies:
    """What happens to a row that cannot be trained on as it is; every such row is counted in the receipt. Of
    preferences it is the reply that is dropped, and its row where no pair is left; prompts have no reply.

    Args:
        long_prompt: the prompt alone fills `max_length`: `drop` the row, cut the prompt from the left
            (`truncate_left`, its bos stays) so that the whole reply fits, or stop (`error`).
        long_reply: prompt and reply together are longer than `max_length`: likewise. A reply is never cut: it
            would lose its end.
        empty_reply: `drop` or `error`.
        missing_eos: a chat template that ends a reply with neither the tokenizer's eos nor another token:
            `append` it, `drop` the row, or stop.
        double_bos: the row begins with two bos tokens: `drop`, `truncate_left` (one of them), or stop.
    """

    long_prompt: CutOrDrop = "drop"
    long_reply: CutOrDrop = "drop"
    empty_reply: Literal["drop", "error"] = "drop"
    missing_eos: Literal["append", "drop", "error"] = "error"
    double_bos: CutOrDrop = "error"

    def left_out(self, policy: str, reason: str) -> DropRow | StopRun:
        """What leaves a row out where the policy of that name is to drop it, or else stops the run."""
        if getattr(self, policy) == "drop":
            return DropRow(reason)
        return StopRun(f"{reason} (data.policies.{policy} is error)")

    # The following give the tokens as a policy wants them and, if it changed them, what it did.

    def with_eos(self, tokens: Tokens, tokenizer: Any, turn_end: int | None) -> tuple[Tokens, str]:
        """Every run of trained tokens with an end."""
        places = missing_eos(tokens, tokenizer, turn_end)
        if not len(places):
            return tokens, ""
        if self.missing_eos != "append":
            raise self.left_out("missing_eos", f"a reply without {tokenizer.eos_token} at its end")
        ids = np.insert(tokens.ids, places, tokenizer.eos_token_id)
        return Tokens(ids, np.insert(tokens.trained, places, True)), "eos appended to a reply without one"

    def with_one_bos(self, tokens: Tokens, tokenizer: Any) -> tuple[Tokens, str]:
        """Not two bos at the beginning."""
        if not double_bos(tokens.ids, tokenizer):
            return tokens, ""
        if self.double_bos != "truncate_left":
            raise self.left_out("double_bos", f"two {tokenizer.bos_token} at the beginning")
        return Tokens(tokens.ids[1:], tokens.trained[1:]), "one of two bos removed"


def without_start(tokens: Tokens, count: int, tokenizer: Any) -> Tokens:
    """Tokens that lose so many at the beginning, after their bos."""
    bos = int(tokens.ids[0] == tokenizer.bos_token_id)
    kept = np.r_[np.arange(bos), np.arange(count + bos, len(tokens.ids))]
    return Tokens(tokens.ids[kept], tokens.trained[kept])
