"""Rows of which only several together say something → one row: the messages of an OpenAssistant tree, the
replies to one prompt with a score each (HelpSteer, KTO)."""

import json
from collections.abc import Iterator, Mapping
from typing import Any

from datamodules.layouts.asked import read_answer, read_asked
from datamodules.layouts.chats import is_flat
from datamodules.layouts.columns import mapped
from datamodules.layouts.kinds import Kind
from datamodules.layouts.layout import Layout
from datamodules.layouts.names import spelt
from datamodules.layouts.ranked import SCORED, number
from datamodules.rendering.segments import BadRow, DropRow, Row

ASKED = ("instruction", "input", "system", "messages", "tools")


class Joined:
    """Gathers the rows of a source that are parts of others, in memory.

    Args:
        kind: of data that the whole rows are to be.
        columns: our name ← theirs.
    """

    def __init__(self, kind: Kind, columns: Mapping[str, str] | None = None):
        self.kind, self.columns = kind, columns or {}
        self.nodes: dict[str, Row] = {}
        self.prompts: dict[str, Row] = {}

    def takes(self, row: Row) -> bool:
        """Whether a row is such a part, which is then kept."""
        if is_flat(row) and isinstance(row["message_id"], str) and isinstance(row["parent_id"], str | None):
            self.nodes[row["message_id"]] = {**row, "replies": []}
            return True
        scored = _scored_reply(row, self.columns) if self.kind == "preferences" else None
        if scored is None:
            return False
        asked, reply, rating = scored
        key = json.dumps(asked, ensure_ascii=False, default=str)
        ranked = self.prompts.setdefault(key, {**asked, "replies": [], "ratings": []})
        ranked["replies"].append(reply)
        ranked["ratings"].append(rating)
        return True

    def rows(self) -> Iterator[Row]:
        """The whole rows, in the order of their first parts."""
        trees: list[Row] = []
        for node in self.nodes.values():
            parent = self.nodes.get(node["parent_id"])
            (trees if parent is None else parent["replies"]).append(node)
        yield from ({"prompt": tree} for tree in trees)
        yield from self.prompts.values()


def _scored_reply(row: Row, columns: Mapping[str, str]) -> tuple[Row, str, float] | None:
    """What a row asks, its one reply and how that is rated; None where it is no such row."""
    layout = Layout(dict(spelt(mapped(row, columns))[0]), columns, file_row=row)
    scored = next((column for column in SCORED if layout.has(column)), None)
    if scored is None:
        return None
    try:
        rating = number(_truth(layout.row[scored]), scored)
        read_asked(layout)
        read_answer(layout)
    except (BadRow, DropRow):
        return None
    messages = layout.row.get("messages")
    if isinstance(messages, list) and messages:
        *before, last = messages
        layout.row["messages"], reply = before, last.get("content") if isinstance(last, dict) else None
    else:
        reply = layout.row.get("output")
    asked = {column: layout.row[column] for column in ASKED if layout.has(column)}
    return (asked, reply, rating) if isinstance(reply, str) and asked else None


def _truth(value: Any) -> Any:
    """1 and 0 for what a mark says as a text."""
    return {"true": 1, "false": 0}.get(value.strip().lower(), value) if isinstance(value, str) else value
