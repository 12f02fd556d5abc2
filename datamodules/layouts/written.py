"""A whole conversation in one text, written with the marks of a model or with names of speakers → turns."""

import json
import re
from typing import Any, NamedTuple

from datamodules.rendering.segments import BadRow

NAMES = {
    **dict.fromkeys(("human", "user", "prompter", "instruction", "[inst]", "用户", "问"), "user"),
    **dict.fromkeys(
        ("assistant", "ai", "bot", "gpt", "model", "response", "[/inst]", "助手", "答"), "assistant"
    ),
    **dict.fromkeys(("function response", "tool", "ipython", "observation"), "tool"),
    "system": "system",
    "input": "input",
}
"""who speaks, in small letters → role; `input` adds to what is asked"""


class Notation(NamedTuple):
    """A way to write a conversation.

    Args:
        mark: what begins a turn; its group says who speaks, and what is before the first is a known preamble.
        ends: what ends one, and is no part of it.
    """

    mark: re.Pattern[str]
    ends: re.Pattern[str] | None = None


def _notation(mark: str, ends: str = "", flags: re.RegexFlag = re.IGNORECASE) -> Notation:
    return Notation(re.compile(mark, flags), re.compile(ends) if ends else None)


NOTATIONS = [
    _notation(r"(\[/?INST\])", r"</?s>"),  # Llama 2, Mistral
    _notation(r"<\|im_start\|>\s*(\w+)\n", r"<\|im_end\|>|<\|endoftext\|>"),  # ChatML
    _notation(r"<\|start_header_id\|>(\w+)<\|end_header_id\|>", r"<\|eot_id\|>|<\|begin_of_text\|>"),
    _notation(r"<start_of_turn>(\w+)\n", r"<end_of_turn>|<bos>|<eos>"),  # Gemma
    _notation(r"<\|(system|user|assistant|prompter)\|>:?", r"</s>|<\|end\|>|<\|endoftext\|>"),
    _notation(r"\[\|(human|ai)\|\]"),  # Baize
    _notation(r"(?:^|\n)[ \t]*<(human|bot)>:"),  # OIG
    _notation(r"### ?(system|human|user|assistant|bot|ai):"),  # Guanaco
    _notation(r"(?:^|\n)### ?(instruction|input|response):", r"</s>|<\|endoftext\|>"),  # Alpaca, rendered
    _notation(  # Glaive, Vicuna
        r"(?<!\w)(SYSTEM|USER|ASSISTANT|FUNCTION RESPONSE):", r"<\|endoftext\|>|</s>", re.NOFLAG
    ),
    _notation(r"(?:^|\n)(system|human|user|assistant|ai|bot):"),
]
SYSTEM = re.compile(r"\s*<<SYS>>(.*?)<</SYS>>", re.DOTALL)
ALPACA = "Below is an instruction that describes a task"
PREAMBLES = (ALPACA, "A chat between a", "The conversation between human and AI")
"""what templates of Alpaca, Vicuna and Baize begin with"""
BEGINNING = 200  # characters of a text in which the first mark is, where no preamble is before it
SPEAKER = re.compile(r"\s*(human|user|assistant|ai|用户|助手|问|答)\s*[:：]\s*", re.IGNORECASE)
CALL = re.compile(r"<functioncall>\s*(.*)", re.DOTALL)
QUOTED = re.compile(r'\{\s*"name"\s*:\s*"([^"]*)"\s*,\s*"arguments"\s*:\s*\'(.*)\'\s*\}\s*', re.DOTALL)
FUNCTIONS = re.compile(r"\s*with access to the following functions\..*", re.DOTALL)


def written_turns(text: str) -> list[dict[str, Any]] | None:
    """The turns of a conversation in one text; None where it is none: it begins with what a user says, or a
    system, and an assistant replies.

    Raises:
        BadRow: a call of a function that cannot be read.
    """
    begins = text[:BEGINNING].lstrip()
    for notation in NOTATIONS:
        first = notation.ends.sub("", begins).lstrip() if notation.ends else begins
        may_be = notation.mark.match(first) or begins.startswith(PREAMBLES)  # most texts are none, and long
        if may_be and (turns := _turns(text, notation)):
            return turns
    return None


def _turns(text: str, notation: Notation) -> list[dict[str, Any]] | None:
    before, *parts = notation.mark.split(text)
    speakers = [NAMES.get(speaker.strip().lower()) for speaker in parts[::2]]
    before = (notation.ends.sub("", before) if notation.ends else before).strip()
    begins = speakers and speakers[0] in ("user", "system") and (not before or before.startswith(PREAMBLES))
    if not begins or None in speakers or "assistant" not in speakers:
        return None
    turns: list[dict[str, Any]] = []
    for role, said in zip(speakers, parts[1::2], strict=True):
        said = (notation.ends.sub("", said) if notation.ends else said).strip()
        if role == "input":
            turns[-1]["content"] += f"\n{said}"
        elif role == "user" and (system := SYSTEM.match(said)):
            turns += [
                {"role": "system", "content": system[1].strip()},
                {"role": "user", "content": said[system.end() :].strip()},
            ]
        else:
            turns.append(_turn(str(role), said))
    if before and not before.startswith(ALPACA):
        turns.insert(0, {"role": "system", "content": before})
    last = turns[-1]
    return turns[:-1] if not (last["content"] or last.get("tool_calls")) else turns


def _turn(role: str, said: str) -> dict[str, Any]:
    call = CALL.search(said) if role == "assistant" else None
    if call is None:
        return {"role": role, "content": said}
    function = {"type": "function", "function": _function(call[1])}
    return {"role": role, "content": said[: call.start()].strip(), "tool_calls": [function]}


def _function(text: str) -> dict[str, Any]:
    """A call as Glaive writes it: JSON, its arguments in single quotes, JSON themselves."""
    quoted = QUOTED.fullmatch(text)
    try:
        if quoted:
            return {"name": quoted[1], "arguments": json.loads(quoted[2].replace("\\'", "'"), strict=False)}
        call = json.loads(text, strict=False)
        return {"name": call["name"], "arguments": call.get("arguments") or {}}
    except (ValueError, TypeError, KeyError, AttributeError):
        raise BadRow("a <functioncall> is no JSON of name and arguments") from None


def without_speakers(texts: list[str]) -> list[str]:
    """Texts of a user and an assistant in turn, without the names of the speakers that each begins with."""
    marks = [SPEAKER.match(text) for text in texts]
    roles = [NAMES[mark[1].lower()] if mark else "" for mark in marks]
    if any(role != ("assistant" if place % 2 else "user") for place, role in enumerate(roles)):
        return texts
    return [text[mark.end() :] for text, mark in zip(texts, marks, strict=True) if mark]


def functions_of(system: str) -> tuple[str, list[dict[str, Any]]] | None:
    """Glaive's text of a system: what it says, and the functions that it lists; None where it is another.

    Raises:
        BadRow: one of them is no JSON.
    """
    if not system.startswith("SYSTEM:"):
        return None
    said = system.removeprefix("SYSTEM:").strip()
    listed = FUNCTIONS.search(said)
    start = said.find("{", listed.start()) if listed else -1
    if listed is None or start < 0:
        return said, []
    tools, rest, decoder = [], said[start:], json.JSONDecoder(strict=False)
    while rest := rest.lstrip(" \n,"):
        try:
            function, end = decoder.raw_decode(rest)
        except ValueError:
            raise BadRow("a function in the text of `system` is no JSON") from None
        tools.append({"type": "function", "function": function})
        rest = rest[end:]
    return said[: listed.start()] + ".", tools
