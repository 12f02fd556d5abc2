"""How the rows of a source are read: `columns`, the layout that each row is recognised to have, the file's
encoding."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches

from datamodules.layouts.asked import read_answer, read_asked
from datamodules.layouts.chats import ALSO_CHATS, CHATS, chat_columns
from datamodules.layouts.choices import ANSWERS, FROM_ONE
from datamodules.layouts.columns import mapped
from datamodules.layouts.duels import duel_columns
from datamodules.layouts.kinds import DOCUMENTS, Kind, of_another_kind
from datamodules.layouts.layout import Layout
from datamodules.layouts.marks import CATEGORY, MARKS, refuse_marked
from datamodules.layouts.names import spellings, spelt
from datamodules.layouts.ranked import LISTS, PAIR_SCORES, PAIRS, is_summaries, read_ranked
from datamodules.layouts.vocabulary import QUESTIONS, RATINGS, REPLIES
from datamodules.reading.record import Unreadable
from datamodules.reading.streams import encoding_errors
from datamodules.rendering.segments import BadRow, Row, present_in

ASKED = {*CHATS, *ALSO_CHATS, *QUESTIONS, "input", "system", "tools", "reply_prefix", "history"}
OURS: dict[Kind, set[str]] = {
    "documents": {"text"},
    "instructions": {*ASKED, *REPLIES, *ANSWERS, FROM_ONE, "steps", *MARKS, CATEGORY},
    "preferences": {
        *ASKED,
        *{side for pair in (*PAIRS.items(), *PAIR_SCORES) for side in pair},
        *LISTS,
        *RATINGS,
        *("agreement", "better"),
    },
    "prompts": ASKED | {*PAIRS, *PAIRS.values()},
    "tokens": {"input_ids", "labels"},
}
"""kind of data → the columns that `columns` may name"""
TEXTS = {"instruction", "input", "output", "system"}


@dataclass(frozen=True)
class RowReader:
    """What a data module reads of rows.

    Args:
        kind: what it makes of them; `other` takes them as they are.
        columns: our name ← theirs, which may be a path (`meta.text`).
        encoding: of text files; None = UTF-8.
        also: columns that it reads beside those of the layout.
        any_column: whether code of the user's own may read any other, so that none is told as not read.
    """

    kind: Kind = "other"
    columns: Mapping[str, str] = field(default_factory=dict)
    encoding: str | None = None
    also: Collection[str] = ()
    any_column: bool = False

    @property
    def key(self) -> str:
        """Everything that the rows depend on, their bytes apart."""
        return f"{self.kind} {sorted(self.columns.items())} {self.encoding}"

    @property
    def wanted(self) -> set[str] | None:
        """Columns of a table that need be read; None = any of them may be."""
        if self.any_column or self.kind not in ("documents", "tokens"):
            return None
        ours = {"documents": set(DOCUMENTS), "tokens": OURS["tokens"]}[self.kind]
        theirs = set(self.columns.values())
        return {*spellings(ours), *theirs, *(path.partition(".")[0] for path in theirs), *self.also}

    def config_errors(self, field: str) -> list[str]:
        """What is wrong with the settings under `field`, a line each."""
        errors = encoding_errors(f"{field}.encoding", self.encoding)
        for our, their in self.columns.items():
            if not isinstance(their, str) or not their:
                errors.append(f"{field}.columns.{our} is {their!r}: give the name of a column")
            elif self.kind in OURS and not self.any_column and our not in {*OURS[self.kind], *self.also}:
                near = get_close_matches(our, OURS[self.kind], n=1)
                known = (
                    f"did you mean {near[0]}?"
                    if near
                    else f"choose from {', '.join(sorted(OURS[self.kind]))}"
                )
                errors.append(f"{field}.columns names {our}, which is no column here: {known}")
        return errors

    def read(self, row: Row) -> Layout:
        """A row's columns under our names, and the layout in which they were found.

        Raises:
            BadRow: it has no known layout, two at once, or a value that cannot be read in a column that is.
            DropRow: there is nothing in it.
        """
        ours = mapped(row, self.columns) if self.columns else dict(row)
        names: dict[str, str] = {}
        if not self.any_column:
            ours, names = spelt(ours, self.also)
        layout = Layout(ours, self.columns, file_row=row, spelt=names)
        inside = {path.partition(".")[0] for path in self.columns.values() if path not in row}
        layout.used |= {*self.columns, *self.also, *inside}
        try:
            self._read(layout)
        except BadRow as error:
            raise of_another_kind(row, self.kind, error) from error
        for column in layout.used:
            if isinstance(value := layout.row.get(column), Unreadable):
                raise BadRow(f"`{column}` cannot be read: {value.reason}")
        given = {their: our for our, their in self.columns.items() if our != their}
        moved = {names.get(t, t): o for t, o in layout.moves.items() if t not in self.columns}
        own = {their: our for our, their in names.items() if our in layout.used and layout.row.get(our)}
        layout.moves = given | own | moved
        self._refuse_nested(layout)
        return layout

    def _refuse_nested(self, layout: Layout) -> None:
        """Refuses objects and lists where a text is read, by the name that they have in the file."""
        read = () if self.any_column else {"system"} if layout.has("messages") else TEXTS
        for column in {*read} & {*layout.used}:
            value = layout.row.get(column)
            if isinstance(value, dict | list):
                theirs = next((their for their, our in layout.moves.items() if our == column), column)
                part = next(iter(value), "…") if isinstance(value, dict) else 0
                if isinstance(value, dict) and isinstance(layout.file_row.get(theirs), list):
                    part = f"0.{part}"  # the first of several
                raise BadRow(
                    f"`{theirs}` is {type(value).__name__}, not text: name the part of it that is meant, as "
                    f"in `columns: {{{column}: {theirs}.{part}}}`"
                )

    def _read(self, layout: Layout) -> None:
        match self.kind:
            case "documents":
                read_document(layout)
            case "instructions":
                read_asked(layout)
                read_answer(layout)
                refuse_marked(layout)
            case "preferences":
                read_ranked(layout)
            case "prompts":
                read_prompt(layout)
            case "tokens":
                layout.name, layout.used = "tokens", layout.used | OURS["tokens"]

    def not_used(self, layout: Layout) -> list[str]:
        """Columns of a row that say something and that nobody reads."""
        if self.any_column or self.kind == "other":
            return []
        row, theirs = layout.row, layout.spelt
        unread = [column for column in row if column not in layout.used and row[column] not in (None, "")]
        return [theirs.get(column, column) for column in unread]


def read_document(layout: Layout) -> None:
    """Puts a document into `text`.

    Raises:
        BadRow: no column holds one.
    """
    column = next((column for column in DOCUMENTS if layout.has(column)), None)
    if column is None or ("text" in layout.named and column != "text"):
        raise BadRow(f"no `text` (it has {present_in(layout.file_row)}): name it with `columns: {{text: …}}`")
    layout.take(column, "text")
    layout.name = "documents"


def read_prompt(layout: Layout) -> None:
    """Puts what a row asks into `instruction` or `messages`, be it a row of answers or of ranked replies.

    Raises:
        BadRow: nothing is asked, or in two columns.
    """
    asks = chat_columns(layout.row) or any(layout.has(column) for column in (*QUESTIONS, "input"))
    ranks = any(map(layout.has, PAIRS)) or duel_columns(layout.row) or is_summaries(layout.row)
    if asks or not ranks:
        read_asked(layout)
        layout.name = "prompts" if "instruction" in layout.row else layout.name
        return
    read_ranked(layout)
    chosen, rejected = layout.row.pop("chosen", None), layout.row.pop("rejected", None)
    layout.drop("replies", "ratings")
    layout.name += ", of which what both answer"
    layout.used.add("messages")
    if layout.has("instruction"):
        return
    if not (isinstance(chosen, list) and isinstance(rejected, list)):
        raise BadRow(f"no `instruction` and no `messages` (it has {present_in(layout.file_row)})")
    shared = next((i for i, (a, b) in enumerate(zip(chosen, rejected, strict=False)) if a != b), None)
    layout.row["messages"] = chosen[: len(chosen) - 1 if shared is None else shared]
