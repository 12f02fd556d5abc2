"""What a model is given to continue: a conversation as it was trained to read it."""

from typing import Any

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.whole_text import encode_batch


def prompt_ids(tokenizer: Any, messages: list[dict[str, str]], prefix: str) -> list[int]:
    """A conversation through the tokenizer's chat template; its last message alone in the instruction format
    where the tokenizer has none. The reply begins with `prefix`, which is given."""
    if tokenizer.chat_template:
        return row_ids(tokenizer, {"messages": messages, "reply_prefix": prefix})
    return row_ids(tokenizer, {"instruction": messages[-1]["content"], "reply_prefix": prefix})


def row_ids(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    """A row's prompt through the tokenizer's chat template, in the instruction format where it has none."""
    template = ChatTemplate() if tokenizer.chat_template else InstructionTemplate()
    return encode_batch(tokenizer, [template.prompt(row, 0, tokenizer)])[0].ids.tolist()
