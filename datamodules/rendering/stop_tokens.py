"""What ends a reply."""

from typing import Any

from datamodules.rendering.chat_template import turn_end


def stop_tokens(tokenizer: Any) -> tuple[int, ...]:
    """The tokenizer's eos, then the token with which its chat template ends a turn where that is another."""
    end = turn_end(tokenizer)
    return (tokenizer.eos_token_id,) if end is None else (tokenizer.eos_token_id, end)
