"""Which kind of data a row is meant for, and who reads it."""

from collections.abc import Mapping
from typing import Literal

from datamodules.layouts.chats import (
    asked_and_answered,
    chat_columns,
    is_flat,
    is_tree,
    messages_of,
    turns_of,
    written_column,
)
from datamodules.layouts.choices import UNSURE
from datamodules.layouts.columns import mapped
from datamodules.layouts.duels import duel_columns
from datamodules.layouts.layout import Layout
from datamodules.layouts.names import spelt
from datamodules.layouts.ranked import LISTS, PAIRS, WORSE, is_ranked_list, is_summaries
from datamodules.layouts.vocabulary import CONTEXTS, QUESTIONS, REPLIES
from datamodules.layouts.wrapped import unwrap
from datamodules.rendering.segments import BadRow, Row

Kind = Literal["documents", "instructions", "preferences", "prompts", "tokens", "other"]
DOCUMENTS = ("text", "content", "raw_content", "code")
"""columns that hold a document, the first that is there"""
READ_BY = {
    "documents": "MixedCorpusData",
    "instructions": "InstructionData",
    "preferences": "PreferenceData",
    "prompts": "PromptData",
    "tokens": "TokenData",
}


def kind_of(row: Row, columns: Mapping[str, str] | None = None) -> Kind | None:
    """Which kind of data a row is meant for, by the columns that say something; None where none of them is
    known.

    Args:
        row: as it is in the file.
        columns: our name ← theirs, as of a data module; `other` where the row has not got them.
    """
    if columns:
        try:
            row = mapped(row, columns)
        except BadRow:
            return "other"
    layout = Layout(dict(spelt(row)[0]), {})
    try:
        unwrap(layout)
    except BadRow:  # whoever reads the row says so
        return "instructions"
    row = layout.row
    present = {column for column, value in row.items() if value is not None}
    if "input_ids" in present:
        return "tokens"
    if present & {*PAIRS, *WORSE} or any(is_ranked_list(row, column) for column in present & {*LISTS}):
        return "preferences"
    if duel_columns(row) or is_summaries(row):
        return "preferences"
    if is_flat(row) or is_tree(row.get("prompt")):
        return "instructions"
    if chats := chat_columns(row):
        return "instructions" if _is_answered(row, chats[0]) or present & {*REPLIES} else "prompts"
    if present & {*QUESTIONS} == {"prompt"} and "text" in present and not present & {*REPLIES}:
        return "documents"  # Cosmopedia's: what was written, and what asked for it
    if present & {*QUESTIONS} or (present & {*CONTEXTS} and present & {*REPLIES, "content"}):
        return "instructions" if present & {*REPLIES, "content", UNSURE} else "prompts"
    if asked_and_answered(row) or (written_column(row) and "text" not in (columns or {})):
        return "instructions"
    return "documents" if present & {*DOCUMENTS} else None


def _is_answered(row: Row, column: str) -> bool:
    """Whether a conversation has an assistant's turn."""
    try:
        turns = turns_of(row, column)
        messages = messages_of(turns)[0] if isinstance(turns, list) else []
    except BadRow:  # whoever reads the row says so
        return True
    return any(isinstance(turn, dict) and turn.get("role") == "assistant" for turn in messages)


def of_another_kind(row: Row, kind: Kind, refusal: BadRow) -> BadRow:
    """The refusal of a row that cannot be read as one of a kind; where it is one of another, as in a file
    that mixes them, with a word of that."""
    own = kind_of(row)
    if own in (None, kind, "other", "prompts"):  # of a prompt without an answer that is all there is to say
        return refusal
    return BadRow(f"{refusal}; as it is, this is a row of {own}, which {READ_BY[str(own)]} reads")
