"""MOSS's conversations, whose texts begin with who speaks and end with a mark → turns of role and content."""

import ast
import re
from collections.abc import Mapping
from typing import Any

from datamodules.rendering.segments import BadRow, Row

SPEAKER = re.compile(r"\s*<\|[\w ]+\|>:\s*")
END = re.compile(r"\s*<eo\w>\s*$")
PLAIN = re.compile(r"\[(Human|MOSS)\]: (.*?)\s*<eo[ha]>", re.DOTALL)
API = re.compile(r"API: (\w+)\(([\w, ]*)\)")
"""a tool and its parameters, as `meta_instruction` declares them"""


def moss_turns(value: Any, row: Row) -> list[dict[str, Any]] | None:
    """The turns of `chat` of MOSS-003, without its inner thoughts, or of `plain_text` of MOSS-002; None
    where it is neither.

    Args:
        value: of the column.
        row: whose `meta_instruction` names the parameters of the tools that are called.

    Raises:
        BadRow: a turn's `Commands` are no calls of tools.
    """
    if isinstance(value, str) and value.startswith("[Human]: ") and "[MOSS]: " in value:
        roles = {"Human": "user", "MOSS": "assistant"}
        return [{"role": roles[who], "content": text} for who, text in PLAIN.findall(value)]
    turns = list(value.values()) if isinstance(value, dict) else []
    if not turns or not all(isinstance(turn, dict) and {"Human", "MOSS"} <= {*turn} for turn in turns):
        return None
    apis = dict(API.findall(str(row.get("meta_instruction"))))
    messages: list[dict[str, Any]] = []
    for turn in turns:
        messages.append({"role": "user", "content": _said(turn["Human"])})
        if (commands := _said(turn.get("Commands"))) not in ("", "None"):
            messages.append({"role": "assistant", "content": "", "tool_calls": _calls(commands, apis)})
            messages.append({"role": "tool", "content": _said(turn.get("Tool Responses"))})
        messages.append({"role": "assistant", "content": _said(turn["MOSS"])})
    return messages


def _calls(commands: str, apis: Mapping[str, str]) -> list[dict[str, Any]]:
    """`Search("a"), Search("b")` as calls; what an argument is called says `meta_instruction`."""
    try:
        body = ast.parse(f"[{commands}\n]", mode="eval").body
        functions = [_function(node, apis) for node in body.elts] if isinstance(body, ast.List) else [None]
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        functions = [None]
    if None in functions:
        raise BadRow(f"`Commands` of a turn are no calls of tools: {commands[:80]!r}")
    return [{"type": "function", "function": function} for function in functions]


def _function(node: ast.expr, apis: Mapping[str, str]) -> dict[str, Any] | None:
    """A call's name and arguments; None where it is no call."""
    if not (isinstance(node, ast.Call) and isinstance(node.func, ast.Name)):
        return None
    if any(isinstance(each, ast.Starred) for each in node.args) or not all(key.arg for key in node.keywords):
        return None  # of how many arguments nobody knows
    names = [name.strip() for name in apis.get(node.func.id, "").split(",") if name.strip()]
    names += [f"argument_{place + 1}" for place in range(len(names), len(node.args))]
    given = zip(names, map(_value, node.args), strict=False)
    named = {key.arg: _value(key.value) for key in node.keywords if key.arg}
    return {"name": node.func.id, "arguments": {**dict(given), **named}}


def _value(node: ast.expr) -> Any:
    """What an argument says; of a sum, or a name, its text."""
    try:
        return ast.literal_eval(node)
    except ValueError:
        return ast.unparse(node)


def _said(text: Any) -> str:
    return END.sub("", SPEAKER.sub("", text, count=1)) if isinstance(text, str) else ""
