"""Measured points of a scaling law, as a CSV holds them: size of a model, tokens, loss."""

import csv
import math
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from experiments.cli.user_errors import UserError
from experiments.plan.scaling import training_flops

FEWEST = 6  # points: five constants, and one more to be wrong on
REQUIRED = ("parameters", "tokens", "loss")
OPTIONAL = ("parameters_without_embeddings", "flops")
BUDGET_WIDTH = 0.05  # points whose FLOPs differ by no more than this share have one budget


class Points(NamedTuple):
    """Runs, an entry each in every array (n,)."""

    parameters: np.ndarray
    tokens: np.ndarray
    loss: np.ndarray  # nats a token
    flops: np.ndarray  # of the whole run: the file's, else 6·N·D
    without_embeddings: np.ndarray | None = None  # parameters but for embeddings

    def kept(self, chosen: np.ndarray) -> "Points":
        """Some of the points: where `chosen` (n,) is true, or at its indices."""
        columns: list[Any] = [None if column is None else column[chosen] for column in self]
        return Points(*columns)

    def counted_without_embeddings(self) -> "Points":
        """The same points, their size counted without embeddings."""
        assert self.without_embeddings is not None
        return self._replace(parameters=self.without_embeddings)

    @property
    def budgets(self) -> list[np.ndarray]:
        """The indices of the points of each budget of FLOPs, the smallest budget first."""
        order = np.argsort(self.flops, kind="stable")
        groups: list[list[int]] = []
        for index in order:
            starts_one = not groups or self.flops[index] > self.flops[groups[-1][0]] * (1 + BUDGET_WIDTH)
            groups = [*groups, [index]] if starts_one else [*groups[:-1], [*groups[-1], index]]
        return [np.array(group) for group in groups]


def read_points(file: Path, fewest: int = FEWEST) -> Points:
    """The points of a CSV with the columns `parameters`, `tokens` and `loss`; where it has them, also
    `parameters_without_embeddings` and `flops`; others are left alone.

    Raises:
        UserError: it is not there or no such file, a value is missing or no number above 0, or there are too
            few rows.
    """
    try:
        with open(file, encoding="utf-8-sig", newline="") as lines:
            reader = csv.DictReader(lines, restval="")
            rows, columns = list(reader), list(reader.fieldnames or [])
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        reason = error.strerror if isinstance(error, OSError) else "it is no CSV in UTF-8"
        raise UserError(f"{file}: {reason}: give a CSV with the columns {', '.join(REQUIRED)}") from error
    if absent := [name for name in REQUIRED if name not in columns]:
        has = " ".join(", ".join(columns).split()) or "none"
        raise UserError(f"{file}: no column {', '.join(absent)}; it has {has}: name them in its first line")
    given = [name for name in (*REQUIRED, *OPTIONAL) if name in columns]
    values = {name: np.array([_value(file, row, name, n) for n, row in enumerate(rows, 2)]) for name in given}
    if len(rows) < fewest:
        raise UserError(
            f"{file}: {len(rows)} points, but a fit of five constants needs {fewest} or more: add runs"
        )
    flops = values.get("flops", training_flops(1.0, 1.0) * values["parameters"] * values["tokens"])
    parameters, tokens, loss = (values[name] for name in REQUIRED)
    return Points(parameters, tokens, loss, flops, values.get("parameters_without_embeddings"))


def _value(file: Path, row: dict[str, str], name: str, line: int) -> float:
    """A number above 0."""
    text = (row[name] or "").strip()
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if value > 0 and math.isfinite(value):
        return value
    was = f"is {' '.join(text.split())[:60]}" if text else "is missing"
    raise UserError(f"{file}, line {line}: {name} {was}: give a number above 0, or take the row out")
