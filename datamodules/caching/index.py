"""What a token cache holds: counts of the rows that are kept, and reason and place of those that are not."""

import hashlib
import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from datamodules.atomic import replacing
from datamodules.errors import UserError
from datamodules.receipt import Receipt

EXAMPLES = 5  # of each reason why a row was left out
REASONS = 50


@dataclass
class Index:
    """What a cache holds so far; the shards are complete, each."""

    files: list[str] = field(default_factory=list)
    """the source's, as they were called when it was read"""
    shards: list[int] = field(default_factory=list)
    """rows of each that are kept"""
    ends: list[int] = field(default_factory=list)
    """rows read from the source when each was complete"""
    sizes: list[int] = field(default_factory=list)
    """bytes of each"""
    checksums: list[str] = field(default_factory=list)
    """of the content of each"""
    rows: int = 0
    """rows read from the source"""
    tokens: int = 0
    weight: int = 0
    truncated: int = 0
    """rows that were shortened or changed"""
    changed: dict[str, int] = field(default_factory=dict)
    """what was done to them → rows"""
    dropped: dict[str, int] = field(default_factory=dict)
    """reason → rows left out by a policy"""
    refused: dict[str, int] = field(default_factory=dict)
    """reason → rows that cannot be read or are of a wrong type"""
    examples: dict[str, list[str]] = field(default_factory=dict)
    """reason → the first such rows, where they are and what is wrong; layout → where the first one is"""
    layouts: dict[str, int] = field(default_factory=dict)
    """layout that rows were found to have → rows"""
    not_read: dict[str, int] = field(default_factory=dict)
    """column that nobody reads → rows that say something there"""
    finished: bool = False
    failure: str = ""
    """what ended the last writer"""
    is_refusal: bool = False
    """whether that was a user's mistake"""

    @property
    def kept(self) -> int:
        return sum(self.shards)

    @property
    def left_out(self) -> dict[str, int]:
        """reason → rows that are not kept, for whichever cause"""
        return {**self.dropped, **self.refused}

    def add_shard(self, kept: int, size: int, checksum: str) -> None:
        """Takes note of a shard that is complete: rows in it, bytes, and the checksum of its content."""
        self.shards.append(kept)
        self.ends.append(self.rows)
        self.sizes.append(size)
        self.checksums.append(checksum)

    def leave_out(self, counts: dict[str, int], reason: str, line: str) -> None:
        """Counts a row in `dropped` or `refused`, and remembers the `line` that tells of the first few. What
        precedes " (" in a reason is alike for all such rows; reasons beyond `REASONS` are one."""
        reason = reason.partition(" (")[0]
        if reason not in counts and len(counts) >= REASONS:
            reason = "other reasons"
        counts[reason] = counts.get(reason, 0) + 1
        lines = self.examples.setdefault(reason, [])
        if len(lines) < EXAMPLES:
            lines.append(line)

    def note(self, layouts: Mapping[str, list[str]], not_read: Mapping[str, int]) -> None:
        """Counts how rows were read: layout → where they are, column that nobody reads → rows."""
        for layout, places in layouts.items():
            layout = layout if layout in self.layouts or len(self.layouts) < REASONS else "other layouts"
            self.examples.setdefault(layout, places[:1])
            self.layouts[layout] = self.layouts.get(layout, 0) + len(places)
        for column, rows in not_read.items():
            if column in self.not_read or len(self.not_read) < REASONS:
                self.not_read[column] = self.not_read.get(column, 0) + rows

    def first_refused(self) -> str:
        """The line of the first row that is unreadable or of a wrong type, and how many more there are."""
        more = sum(self.refused.values()) - 1
        line = self.examples[next(iter(self.refused))][0]
        return line + (f" (and {more} more so far)" if more else "")

    def check_losses(self, name: str, path: Any, max_dropped: float) -> None:
        """Refuses the source `path` of the field `name` where more than the share `max_dropped` of its rows
        was left out, or all of them.

        Raises:
            UserError: with the reasons and where the first such row is.
        """
        lost, count = self.left_out, sum(self.left_out.values())
        reasons = ", ".join(f"{reason} ({n})" for reason, n in Counter(lost).most_common())
        if not self.rows:
            raise UserError(f"{name}: {path} has no rows")
        if not self.kept:
            first = f"; the first is {next(iter(self.examples.values()))[0]}" if lost else ""
            raise UserError(
                f"{name}: {path}: none of its {self.rows} rows can be trained on: {reasons}{first}"
            )
        if count > max_dropped * self.rows:
            commonest = max(lost, key=lambda reason: lost[reason])
            raise UserError(
                f"{name}: {count} of {self.rows} rows of {path} ({count / self.rows:.1%}) would be left out, "
                f"more than max_dropped {max_dropped:.1%}: {reasons}; the first is "
                f"{self.examples[commonest][0]}: mend the rows, change the policy, or raise max_dropped"
            )

    def receipt(self, name: str) -> Receipt:
        """What became of the rows of the source, which `name` is."""
        return Receipt(
            source=name,
            rows=self.rows,
            kept=self.kept,
            truncated=self.truncated,
            changed=self.changed,
            dropped=self.left_out,
            first={reason: self.examples[reason][0] for reason in self.left_out},
            tokens=self.tokens,
            trained=self.weight,
            layouts=self.layouts,
            layout_first={layout: self.examples[layout][0] for layout in self.layouts},
            not_read=list(self.not_read),
        )

    def save(self, folder: Path) -> None:
        """Writes `index.json`.

        Raises:
            OSError: it cannot be written.
        """
        text = json.dumps(asdict(self), ensure_ascii=False)
        with replacing(folder / "index.json") as unfinished:
            unfinished.write_text(json.dumps([_checksum(text), text]), encoding="utf-8")

    @classmethod
    def load(cls, folder: Path, files: list[str]) -> "Index | None":
        """The index of a cache; None where none was written yet, or it is damaged. Rows are told by the names
        that `files` have now: the same content may have lain elsewhere when it was read."""
        try:
            checksum, text = json.loads((folder / "index.json").read_text(encoding="utf-8"))
            if checksum != _checksum(text):
                return None
            index = cls(**json.loads(text))
        except (OSError, ValueError, TypeError, AttributeError):
            return None
        for lines in index.examples.values():
            lines[:] = [_renamed(line, index.files, files) for line in lines]
        index.files = files
        return index


def _checksum(text: str) -> str:
    return hashlib.blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).hexdigest()


def _renamed(line: str, before: list[str], now: list[str]) -> str:
    for old, new in zip(before, now, strict=False):
        if line.startswith((f"{old}:", f"{old},")):
            return new + line[len(old) :]
    return line
