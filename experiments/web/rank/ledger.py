"""What people have answered, on the disk: rankings in the file that a reward model is trained on, and beside
it answers that prefer nothing, of which `PreferenceData` would say that they are lost."""

from pathlib import Path
from typing import Any

from experiments.web.rank.answer import BEGINS, has_preference, problem
from experiments.web.rank.appended import Appended, parsed


class Ledger:
    """All answers, in the order in which they were given, held by this process until `close`.

    Args:
        path: of the rankings; the other answers lie in `left_out(path)`.

    Raises:
        UserError: as of `Appended`.
    """

    def __init__(self, path: Path):
        self.ranked = Appended(path, BEGINS, problem, "--output")
        try:
            self.left_out = Appended(left_out(path), BEGINS, problem, "--output")
        except BaseException:
            self.ranked.close()
            raise
        self.lines = in_order([*self.ranked.lines, *self.left_out.lines])

    @property
    def healed(self) -> list[str]:
        """What a crash had spoilt, a line each."""
        return [file.healed for file in (self.ranked, self.left_out) if file.healed]

    def append(self, line: dict[str, Any]) -> None:
        """Keeps an answer on the disk, with its number.

        Raises:
            OSError: it could not; nothing has changed.
        """
        numbered = {**line, "number": 1 + (self.lines[-1]["number"] if self.lines else 0)}
        (self.ranked if has_preference(numbered) else self.left_out).append(numbered)
        self.lines.append(numbered)

    def remove(self, line: dict[str, Any]) -> None:
        """Takes an answer away.

        Raises:
            OSError: it stayed.
        """
        file = self.ranked if line in self.ranked.lines else self.left_out
        file.remove(file.lines.index(line))
        self.lines.remove(line)

    def close(self) -> None:
        """Lets another process have the files."""
        self.ranked.close()
        self.left_out.close()


def left_out(path: Path) -> Path:
    """Where answers lie that prefer nothing: cannot say, flagged, skipped, and all tied."""
    return path.with_suffix(".left-out.jsonl")


def in_order(lines: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Answers as they were given."""
    return sorted(lines, key=lambda line: line["number"])


def read(path: Path) -> list[dict[str, Any]] | str:
    """The answers of a ledger that another process may be writing to: what is cut off is not read; or what is
    wrong with one of its files.

    Raises:
        OSError: it cannot be read.
    """
    lines: list[dict[str, Any]] = []
    files = [path, *([left_out(path)] if left_out(path).is_file() else [])]
    for file in files:
        *whole, rest = file.read_bytes().split(b"\n")
        for number, text in enumerate(whole or [rest] * bool(rest), 1):
            line = parsed(text, BEGINS, problem)
            if isinstance(line, str):
                return f"{file}:{number} is no line that `trivium rank` wrote ({line})"
            lines.append(line)
    return in_order(lines)
