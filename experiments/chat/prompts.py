"""What a model is given to continue: a conversation as it was trained to read it."""

from collections.abc import Sequence
from typing import Any

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import Segment
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.whole_text import encode_batch
from experiments.cli.user_errors import UserError

COLUMNS = {"system": "system", "user": "instruction", "assistant": "output"}
NO_TEMPLATE = (
    "this model has no chat template: send turns of user and assistant, one after the other, a system text "
    "before a user's, and the user's last; or continue a text (/v1/completions)"
)


def prompt_ids(tokenizer: Any, messages: list[dict[str, str]], prefix: str) -> list[int]:
    """A conversation through the tokenizer's chat template; where it has none, turn after turn in the
    instruction format. The reply begins with `prefix`, which is given.

    Raises:
        UserError: the template, or the instruction format, has no place for a message.
    """
    if tokenizer.chat_template:
        return row_ids(tokenizer, {"messages": messages, "reply_prefix": prefix})
    return encode_batch(tokenizer, [transcript(tokenizer, messages, prefix)])[0].ids.tolist()


def row_ids(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    """A row's prompt through the tokenizer's chat template, in the instruction format where it has none."""
    template = ChatTemplate() if tokenizer.chat_template else InstructionTemplate()
    return encode_batch(tokenizer, [template.prompt(row, 0, tokenizer)])[0].ids.tolist()


def transcript(tokenizer: Any, messages: Sequence[dict[str, str]], prefix: str) -> list[Segment]:
    """Turns in the instruction format, one behind the other, each reply ended as it is trained to end.

    Raises:
        UserError: they are not a user's and an assistant's in turn.
    """
    template = InstructionTemplate()
    segments: list[Segment] = []
    row: dict[str, str] = {}
    for message in messages:
        column = COLUMNS[message["role"]]
        if column in row or ("instruction" in row) != (column == "output"):
            raise UserError(NO_TEMPLATE)
        row[column] = message["content"]
        if column == "output":
            segments = _behind(segments, template.segments(row, 0, tokenizer), tokenizer)
            row = {}
    if "instruction" not in row:
        raise UserError(NO_TEMPLATE)
    return _behind(segments, template.prompt({**row, "reply_prefix": prefix}, 0, tokenizer), tokenizer)


def _behind(before: Sequence[Segment], turn: Sequence[Segment], tokenizer: Any) -> list[Segment]:
    """A turn behind others: the text has one bos, and nothing in a prompt is trained."""
    begins = bool(before) and turn[0].special and turn[0].text == tokenizer.bos_token
    given = [
        Segment(part.text, False, part.special, part.starts_reply or (part.trained and not part.special))
        for part in turn[begins:]
    ]
    return [*before, *given]
