"""A column beside a reply that says whether it is one to learn, as KTO's and BeaverTails' do."""

from typing import Any

from datamodules.layouts.layout import Layout
from datamodules.rendering.segments import BadRow, DropRow

SURE = ("kto_tag", "is_safe", "is_correct")
"""their names say what they mean, whatever they hold"""
WORDS = ("response_label", "response_harm_label", "correct", "label")
"""these say it in words alone: a number may be that of a category or of a choice"""
MARKS = (*SURE, *WORDS)
CATEGORY = "category"
"""our name for a column that looks like a mark and says something else"""
NOT_LEARNT = ("false", "0", "0.0", "unsafe", "harmful")
LEARNT = ("true", "1", "1.0", "safe", "unharmful")
TRUTH = ("true", "false")


def refuse_marked(layout: Layout) -> None:
    """Leaves out a row whose reply is marked as one that is not to be learned.

    Raises:
        DropRow: with the column.
        BadRow: the column may as well say something else, such as what a film is felt to be like.
    """
    layout.used.add(CATEGORY)
    for column in MARKS:
        mark = str(layout.row.get(column)).strip().lower()
        if mark not in (*LEARNT, *NOT_LEARNT):
            continue
        sure, name = _is_sure(layout, column, mark), layout.spelt.get(column, column)
        if sure:
            layout.used.add(column)
        if mark in NOT_LEARNT and sure:
            raise DropRow(
                f"`{name}` is {mark}: a reply that is not to be learned (if it says something else: "
                f"`columns: {{{CATEGORY}: {name}}}`)"
            )
        if mark in NOT_LEARNT:
            raise BadRow(
                f"`{name}` is {mark}, which may mark a bad reply or say something else: say which with "
                f"`columns: {{is_correct: {name}}}`, and bad ones are left out, or `columns: {{{CATEGORY}: "
                f"{name}}}`"
            )


def _is_sure(layout: Layout, column: str, mark: Any) -> bool:
    """Whether nothing but a mark is meant: `label` is KTO's beside a prompt and completion, as TRL has it,
    or beside messages, as ms-swift has it."""
    if column in SURE or column in layout.named:
        return True
    if column == "label":
        theirs = {layout.spelt.get(name, name) for name in layout.moves} | {*layout.moves}
        kto = "prompt" in theirs and bool(theirs & {"completion", "response"})
        return mark in TRUTH and (kto or "messages" in layout.row)
    return not mark.replace(".", "").isdecimal()
