"""Gemini's turns of `parts` and its tools → messages and tools as OpenAI writes them."""

import json
from typing import Any

from datamodules.rendering.segments import BadRow


def gemini_messages(turn: dict[str, Any], role: str) -> list[dict[str, Any]]:
    """The messages of a turn: results of tools each on their own, and what the role says and calls.

    Raises:
        BadRow: a part is something else, such as a picture.
    """
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    parts = turn["parts"]
    for part in parts if isinstance(parts, list) else [parts]:
        match part:
            case {"thought": True}:
                thoughts.append(str(part.get("text") or ""))
            case str(text) | {"text": str(text)}:
                texts.append(text)
            case {"functionCall": {"name": str(name)} as call} | {
                "function_call": {"name": str(name)} as call
            }:
                calls.append({"type": "function", "function": {"name": name, "arguments": call.get("args")}})
            case {"functionResponse": {"name": str(name)} as result} | {
                "function_response": {"name": str(name)} as result
            }:
                content = json.dumps(result.get("response"), ensure_ascii=False)
                results.append({"role": "tool", "name": name, "content": content})
            case _:
                kind = next(iter(part), "nothing") if isinstance(part, dict) else type(part).__name__
                raise BadRow(f"a turn has a part of `{kind}`: only text and functions can be trained on")
    if results and not (texts or calls):
        return results
    said = {"role": role, "content": "".join(texts)}
    if any(thoughts):
        said["reasoning_content"] = "".join(thoughts)
    return [*results, said | {"tool_calls": calls} if calls else said]


def gemini_tools(tools: Any) -> list[dict[str, Any]] | None:
    """The functions that Gemini's `tools` declare; None where they are none of Gemini's."""
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        return None
    groups = [tool.get("functionDeclarations", tool.get("function_declarations")) for tool in tools]
    if not all(isinstance(group, list) for group in groups):
        return None
    return [{"type": "function", "function": function} for group in groups for function in group]


def system_text(value: Any) -> Any:
    """A system instruction that comes in parts as one text; any other value as it is."""
    parts = value.get("parts") if isinstance(value, dict) else value
    parts = parts if isinstance(parts, list) else [parts]
    texts = [part.get("text") if isinstance(part, dict) else part for part in parts]
    if not texts or not all(isinstance(text, str) for text in texts):
        return value
    return "".join(map(str, texts))
