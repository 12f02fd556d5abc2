"""Results in a folder: a file for each model × task × way, with the answers beside it; ended ones are not
measured again."""

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.atomic import write_text
from experiments.cli.user_errors import UserError
from experiments.evaluation.measure import Identity, Measured, Unit

MODEL = "model.json"


class Result(NamedTuple):
    """What a result file holds."""

    model: str
    task: str
    variant: str
    shots: int
    items: int
    metrics: dict[str, dict[str, float]]
    """name → `value`, `low`, `high` of its 95 % interval, `n` items that count; the first is compared"""
    items_sha256: str
    """the same where the same was asked"""
    rows_sha256: str
    """the same where it was asked about the same items, in whatever way"""
    digest: str
    """of the model"""
    limit: int | None
    seconds: float
    note: str

    @property
    def label(self) -> str:
        """As `Unit.label`."""
        name = f"{self.task}/{self.variant}" if self.variant else self.task
        return f"{name}, {self.shots}-shot" if self.shots else name

    def line(self) -> str:
        """The result as a line of JSON."""
        return json.dumps(self._asdict(), ensure_ascii=False)


class Store:
    """A folder of results.

    Args:
        folder: made at the first result.

    Raises:
        UserError: a file is there, or in its way.
    """

    def __init__(self, folder: str):
        self.folder = Path(folder)
        if any(above.exists() and not above.is_dir() for above in (self.folder, *self.folder.parents)):
            raise UserError(f"--output: {folder} is a file, or in one: give a folder")

    def check(self, name: str, path: str, digest: str) -> None:
        """Whether a name is free for a model, or its own.

        Raises:
            UserError: another model's results have that name.
        """
        file = self.folder / name / MODEL
        known = _read(file) if file.is_file() else {"digest": digest}
        if known.get("digest") != digest:
            raise UserError(
                f"--output: {self.folder} holds results of another model named `{name}` "
                f"({known.get('path')}): name this one, as other={path}, or give another --output"
            )

    def claim(self, name: str, path: str, digest: str) -> None:
        """Gives a model its folder; errors as of `check`."""
        self.check(name, path, digest)
        text = json.dumps({"name": name, "path": path, "digest": digest}, indent=2)
        write_text(self.folder / name / MODEL, text + "\n")

    def ended(self, model: str, unit: Unit, digest: str, asked: Identity) -> Result | None:
        """The result that is there already, of the same model, items and way."""
        file = self._file(model, unit.task.name, unit.variant, unit.shots)
        if not file.is_file() or not file.with_suffix(".jsonl").is_file():
            return None
        result = _result(file)
        return result if (result.digest, result.items_sha256) == (digest, asked.items) else None

    def save(self, model: str, unit: Unit, digest: str, asked: Identity, measured: Measured) -> Result:
        """Writes the answers, then the result."""
        file = self._file(model, unit.task.name, unit.variant, unit.shots)
        metrics = {name: dict(estimate._asdict()) for name, estimate in measured.metrics.items()}
        result = Result(
            model=model,
            task=unit.task.name,
            variant=unit.variant,
            shots=unit.shots,
            items=len(measured.items),
            metrics=metrics,
            items_sha256=asked.items,
            rows_sha256=asked.rows,
            digest=digest,
            limit=unit.limit,
            seconds=measured.seconds,
            note=unit.task.note(),
        )
        lines = (json.dumps(item, ensure_ascii=False) + "\n" for item in measured.items)
        write_text(file.with_suffix(".jsonl"), "".join(lines))
        write_text(file, json.dumps(result._asdict(), indent=2, ensure_ascii=False) + "\n")
        return result

    def answers(self, result: Result) -> list[dict[str, Any]]:
        """The items of a result with their answers and scores."""
        file = self._file(result.model, result.task, result.variant, result.shots).with_suffix(".jsonl")
        with file.open(encoding="utf-8") as lines:
            return [json.loads(line) for line in lines]

    def results(self) -> list[Result]:
        """All results in the folder."""
        return list(self._results())

    def _results(self) -> Iterator[Result]:
        for model in sorted(self.folder.glob(f"*/{MODEL}")):
            for file in sorted(model.parent.glob("*.json")):
                if file.name != MODEL:
                    yield _result(file)

    def _file(self, model: str, task: str, variant: str, shots: int) -> Path:
        name = ".".join(filter(None, [task, variant, f"{shots}-shot"]))
        return self.folder / model / f"{name.replace('/', '_')}.json"


def _read(file: Path) -> Mapping[str, Any]:
    try:
        content = json.loads(file.read_text(encoding="utf-8"))
    except ValueError:
        content = None
    if not isinstance(content, dict):
        raise UserError(f"{file} was cut off or is something else: remove it, and it is measured again")
    return content


def _result(file: Path) -> Result:
    try:
        return Result(**_read(file))
    except TypeError as error:
        raise UserError(
            f"{file} is no result of this version: remove it, and it is measured again"
        ) from error
