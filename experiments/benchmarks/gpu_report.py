"""The rows of the GPU check's table: what a part has measured, against which bar."""

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.table import Table

MET, MISSED, FAILED = "met", "MISSED", "ERROR"


class Row(NamedTuple):
    """A line of the table."""

    part: str
    name: str
    value: str
    bar: str = ""
    verdict: str = ""
    """met, MISSED, ERROR, or nothing where there is no bar"""
    number: float | None = None


class Report:
    """Collects a part's rows in a file, each as soon as it is known: a part may be ended in its middle."""

    def __init__(self, file: Path, part: str, tiny: bool):
        self.file, self.part, self.tiny = file, part, tiny
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self.folder = file.parent / part
        self.folder.mkdir(parents=True, exist_ok=True)

    def add(self, name: str, value: str, number: float | None = None) -> None:
        """A measurement without a bar."""
        self._write(Row(self.part, name, value, number=number))

    def at_most(self, name: str, number: float, bar: float, text: str = "{:.1e}") -> None:
        """A measurement that must not be above a bar; nan is."""
        verdict = MET if number <= bar else MISSED
        self._write(Row(self.part, name, text.format(number), f"≤ {bar:g}", verdict, number))

    def between(self, name: str, number: float, low: float, high: float, value: str) -> None:
        """A measurement that must lie between two bars."""
        verdict = MET if low <= number <= high else MISSED
        self._write(Row(self.part, name, value, f"{low:g}–{high:g}", verdict, number))

    @contextmanager
    def guarded(self, name: str) -> Iterator[None]:
        """What fails within becomes a row, and the part goes on."""
        try:
            yield
        except (Exception, SystemExit) as error:
            lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
            self._write(Row(self.part, name, f"{type(error).__name__}: {lines[0][:160]}", verdict=FAILED))
        finally:
            if self.device.type == "cuda":
                torch.cuda.empty_cache()

    def _write(self, row: Row) -> None:
        with self.file.open("a", encoding="utf-8") as file:
            file.write(json.dumps(row._asdict(), ensure_ascii=False) + "\n")
        print(f"{row.part}: {row.name}: {row.value} {row.bar} {row.verdict}", flush=True)


def read_rows(file: Path) -> list[Row]:
    """The rows that a part has written so far."""
    lines = file.read_text(encoding="utf-8").splitlines() if file.is_file() else []
    return [Row(**json.loads(line)) for line in lines]


def table(rows: list[Row], title: str) -> None:
    """Prints the rows as one table."""
    columns = Table("part", "what", "measured", "bar", "", title=title)
    for row in rows:
        style = {MISSED: "bold red", FAILED: "bold red", MET: "green"}.get(row.verdict, "")
        columns.add_row(row.part, row.name, row.value, row.bar, row.verdict, style=style)
    Console(width=150).print(columns)
