"""A row as it was read: which layout it has, and its columns under our names."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from datamodules.rendering.segments import BadRow, Row


@dataclass
class Layout:
    """What is known of a row while it is read, and in the end its columns as templates read them.

    Args:
        row: the columns, `columns` applied.
        named: our names that `columns` gives: they win where several columns may be meant.
        name: what people call the layout.
        moves: their columns → ours.
        used: columns whose values are read.
        changes: what was done to the row, for the receipt.
        file_row: the row as it is in the file, for messages.
        spelt: our names ← the file's, where it only spells them otherwise.
    """

    row: Row
    named: Mapping[str, str]
    name: str = ""
    moves: dict[str, str] = field(default_factory=dict)
    used: set[str] = field(default_factory=set)
    changes: list[str] = field(default_factory=list)
    file_row: Row = field(default_factory=dict)
    spelt: Mapping[str, str] = field(default_factory=dict)

    def has(self, column: str) -> bool:
        """Whether the row says anything in a column."""
        return self.row.get(column) is not None

    def present(self, *columns: str) -> list[str]:
        """Those of the columns in which the row says anything; where `columns` names some of them, these."""
        present = [column for column in columns if self.has(column)]
        return [column for column in present if column in self.named] or present

    def only(self, present: list[str], does: str, ours: str) -> str | None:
        """The one column that is there, or the first of several that say the same; None where there is none.

        Raises:
            BadRow: there are several.
        """
        if len(present) > 1 and all(self.row[column] == self.row[present[0]] for column in present):
            self.used |= {*present}
        elif len(present) > 1:
            first, second = (self.spelt.get(column, column) for column in present[:2])
            raise BadRow(
                f"`{first}` and `{second}` both {does}: say which with `columns: {{{ours}: {first}}}`"
            )
        return present[0] if present else None

    def take(self, theirs: str, ours: str, value: Any = None) -> None:
        """Reads a column under our name, maybe as another value."""
        taken = self.row[theirs] if value is None else value
        if theirs != ours:
            self.moves[theirs] = ours
            del self.row[theirs]
        self.row[ours] = taken
        self.used |= {theirs, ours}

    def drop(self, *columns: str) -> None:
        """Leaves columns out, so that nobody reads them."""
        for column in columns:
            self.row.pop(column, None)

    @property
    def told(self) -> str:
        """The layout in words."""
        moves = ", ".join(f"{theirs} → {ours}" for theirs, ours in self.moves.items())
        return f"{self.name}: {moves}" if moves else self.name
