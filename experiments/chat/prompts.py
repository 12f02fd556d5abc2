"""What a model is given to continue: a conversation as it was trained to read it."""

from typing import Any

from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.whole_text import encode_batch


def prompt_ids(tokenizer: Any, messages: list[dict[str, str]], prefix: str) -> list[int]:
    """A conversation through the tokenizer's chat template; its last message alone in the instruction format
    where the tokenizer has none. The reply begins with `prefix`, which is given."""
    if tokenizer.chat_template:
        segments = ChatTemplate().prompt({"messages": messages, "reply_prefix": prefix}, 0, tokenizer)
    else:
        row = {"instruction": messages[-1]["content"], "reply_prefix": prefix}
        segments = InstructionTemplate().prompt(row, 0, tokenizer)
    return encode_batch(tokenizer, [segments])[0].ids.tolist()
