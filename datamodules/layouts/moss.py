"""MOSS's conversations, whose texts begin with who speaks and end with a mark → turns of role and content."""

import re
from typing import Any

from datamodules.rendering.segments import BadRow

SPEAKER = re.compile(r"\s*<\|[\w ]+\|>:\s*")
END = re.compile(r"\s*<eo\w>\s*$")
PLAIN = re.compile(r"\[(Human|MOSS)\]: (.*?)\s*<eo[ha]>", re.DOTALL)


def moss_turns(value: Any) -> list[dict[str, str]] | None:
    """The turns of `chat` of MOSS-003, without its inner thoughts, or of `plain_text` of MOSS-002; None
    where it is neither.

    Raises:
        BadRow: a turn calls tools, in a notation that no chat template writes.
    """
    if isinstance(value, str) and value.startswith("[Human]: ") and "[MOSS]: " in value:
        roles = {"Human": "user", "MOSS": "assistant"}
        return [{"role": roles[who], "content": text} for who, text in PLAIN.findall(value)]
    turns = list(value.values()) if isinstance(value, dict) else []
    if not turns or not all(isinstance(turn, dict) and {"Human", "MOSS"} <= {*turn} for turn in turns):
        return None
    if any(_said(turn.get("Commands")) not in ("", "None") for turn in turns):
        raise BadRow("a turn of MOSS calls tools: only conversations without `Commands` can be read")
    sides = (("user", "Human"), ("assistant", "MOSS"))
    return [{"role": role, "content": _said(turn[key])} for turn in turns for role, key in sides]


def _said(text: Any) -> str:
    return END.sub("", SPEAKER.sub("", text, count=1)) if isinstance(text, str) else ""
