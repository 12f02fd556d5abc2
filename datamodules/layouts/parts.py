"""Messages whose content comes in parts, as Anthropic, Bedrock and OpenAI's Responses write them → messages
and tools as OpenAI's chats have them."""

import json
from contextlib import suppress
from typing import Any

CALLED = ("function_call", "function_call_output")
"""items of OpenAI's Responses that are no message"""


def part_messages(message: dict[str, Any]) -> list[dict[str, Any]] | None:
    """The messages of one whose content is parts, calls and results of tools among them; None where it is
    text alone, or has a part that is neither text nor of a tool."""
    parts = message.get("content")
    if not isinstance(parts, list):
        return None
    if all(isinstance(part, dict) and part.get("type", "text") == "text" for part in parts) and not any(
        {*part} & {"toolUse", "toolResult", "reasoningContent"} for part in parts
    ):
        return None
    texts: list[str] = []
    thoughts: list[str] = []
    calls: list[dict[str, Any]] = []
    results: list[dict[str, Any]] = []
    for part in parts:
        match part:
            case {"type": "thinking", "thinking": str(thought)} | {
                "reasoningContent": {"reasoningText": {"text": str(thought)}}
            }:
                thoughts.append(thought)
            case {"type": "redacted_thinking"} | {"reasoningContent": dict()}:
                continue  # encrypted
            case {"type": "tool_use", "id": key, "name": name, "input": given} | {
                "toolUse": {"toolUseId": key, "name": name, "input": given}
            }:
                calls.append(_call(key, name, given))
            case {"type": "tool_result", "tool_use_id": key} | {"toolResult": {"toolUseId": key}}:
                results.append(_result(key, part.get("toolResult", part).get("content")))
            case {"type": "text" | "input_text" | "output_text", "text": str(text)}:
                texts.append(text)
            case {"text": str(text)} if "type" not in part:
                texts.append(text)
            case _:
                return None
    said = {**message, "content": "".join(texts)}
    if thoughts:
        said["reasoning_content"] = "".join(thoughts)
    if calls:
        return [*results, said | {"tool_calls": calls}]
    return [*results, said] if texts or not results else results


def item_messages(item: dict[str, Any]) -> list[dict[str, Any]]:
    """The message of a call, or of what it gave, that stands for itself."""
    if item["type"] == "function_call_output":
        return [_result(item.get("call_id"), item.get("output"))]
    arguments = item.get("arguments")
    with suppress(ValueError):  # what is no JSON stays as it is, for whoever writes it
        arguments = json.loads(arguments) if isinstance(arguments, str) else arguments
    call = _call(item.get("call_id"), item.get("name"), arguments)
    return [{"role": "assistant", "content": "", "tool_calls": [call]}]


def _call(key: Any, name: Any, arguments: Any) -> dict[str, Any]:
    return {"id": key, "type": "function", "function": {"name": name, "arguments": arguments}}


def _result(key: Any, content: Any) -> dict[str, Any]:
    """A message of what a tool gave: its texts, or JSON."""
    parts = content if isinstance(content, list) else [content]
    texts = []
    for part in parts:
        given = part.get("text", part.get("json", part)) if isinstance(part, dict) else part
        texts.append(given if isinstance(given, str) else json.dumps(given, ensure_ascii=False))
    return {"role": "tool", "tool_call_id": key, "content": "".join(texts)}


def declared(tools: Any) -> list[dict[str, Any]] | None:
    """The tools that Anthropic's `tools`, or Bedrock's, declare; None where they are other ones."""
    if not isinstance(tools, list) or not tools or not all(isinstance(tool, dict) for tool in tools):
        return None
    specs = [tool.get("toolSpec", tool) for tool in tools]
    if not all(isinstance(spec, dict) and {"input_schema", "inputSchema"} & {*spec} for spec in specs):
        return None
    functions = []
    for spec in specs:
        schema = spec.get("input_schema", spec.get("inputSchema"))
        schema = schema["json"] if isinstance(schema, dict) and [*schema] == ["json"] else schema
        function = {"name": spec.get("name"), "description": spec.get("description"), "parameters": schema}
        functions.append({name: value for name, value in function.items() if value is not None})
    return [{"type": "function", "function": function} for function in functions]
