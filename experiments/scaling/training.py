"""Trains a family's runs through `trivium fit`. Until the rate decays all budgets of a size are one run, the
trunk, which is trained once: each budget branches off from its checkpoint (Hu et al. 2024, "MiniCPM", §4)."""

import csv
import io
import json
import logging
import os
import shlex
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, redirect_stderr, redirect_stdout
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple, TextIO

from experiments.atomic import write_text
from experiments.cli.user_errors import UserError
from experiments.plan.scaling import training_flops
from experiments.scaling.family import Family, Point, Size

LOSS, SETTINGS, LOG = "loss.json", "settings.json", "log.txt"
MINUTES = "1"  # between checkpoints
LOGGERS = ("lightning", "lightning.pytorch", "lightning.fabric")
CALLBACKS = "experiments.scaling.callbacks"


class Piece(NamedTuple):
    """Steps that are trained in one go, in a folder of their own: a stretch of a size's trunk, or what a
    budget has for itself."""

    name: str  # of the folder
    size: Size
    first: int  # the step that it begins after
    last: int
    after: str | None  # the piece whose last checkpoint it begins with; None = it begins from scratch
    point: Point | None  # None = of the trunk

    @property
    def flops(self) -> float:
        return training_flops(self.size.parameters, self.size.step_tokens) * (self.last - self.first)


def pieces(points: Sequence[Point]) -> list[Piece]:
    """What has to be trained, in order: of each size the trunk to where its next budget branches off, then
    that budget's rest."""
    order: list[Piece] = []
    for size, of_size in groupby(points, key=lambda point: point.size):
        trunk: Piece | None = None
        for point in of_size:
            first, after, last = trunk.last if trunk else 0, trunk and trunk.name, point.trunk_steps
            if trunk is None or last > first:
                trunk = Piece(f"{size.name}-trunk-{last}", size, first, last, after, None)
                order.append(trunk)
            order.append(Piece(point.name, size, last, point.steps, trunk.name, point))
    return order


def alone(point: Point) -> Piece:
    """A point that shares no trunk."""
    return Piece(point.name, point.size, 0, point.steps, None, point)


def train_family(family: Family, points: Sequence[Point], tell: Callable[[dict[str, Any]], Any]) -> None:
    """Trains what is not trained yet, and writes `results.csv` after each point.

    Args:
        tell: called with each point's row of results, in order, as soon as it is there.
    """
    order = pieces(points)
    total, done = sum(piece.flops for piece in order), 0.0
    for piece in order:  # what cannot go on is refused before anything is trained
        _has_ended(family.folder / piece.name, piece)
    for piece in order:
        _train(family, piece, done, total)
        done += piece.flops
        if piece.point is not None:
            write_results(family, points)
            tell(row(family, piece.point))


def train_alone(family: Family, point: Point, points: Sequence[Point]) -> None:
    """Trains one point in one run from its first step on, as a sweep's agent does; the result is the same.

    Args:
        points: of the family, whose results are written as far as they are there.
    """
    _train(family, alone(point), 0.0, point.flops)
    write_results(family, points)


def _train(family: Family, piece: Piece, done: float, total: float) -> None:
    """Trains a piece, unless it is trained already; an interrupted one goes on from its own checkpoint.

    Raises:
        UserError: its folder holds a run of other settings.
    """
    run = family.folder / piece.name
    if _has_ended(run, piece):
        return
    last, before = (
        folder / "checkpoints" / "last.ckpt" for folder in (run, family.folder / str(piece.after))
    )
    if not last.exists():
        shutil.rmtree(run, ignore_errors=True)  # cut off before its first checkpoint
        write_text(run / SETTINGS, _settings(piece))
    start = last if last.exists() else before if piece.after else None
    options = [f"--checkpoint_minutes={MINUTES}", *piece.size.options, *_schedule(family, piece)]
    options += ["--run", str(run), f"--trainer.max_steps={piece.last}"]
    step = training_flops(piece.size.parameters, piece.size.step_tokens)
    bar = {"label": piece.name, "done": done, "total": total, "step": step, "first": piece.first}
    options += [_callback("FamilyBar", bar)]
    options += [_callback("FinalLoss", {"file": str(run / LOSS)})] if piece.point else []
    _fit(run, [*options, *(["--ckpt_path", str(start)] if start else [])])
    if start == last and not _has_ended(run, piece):  # cut off between its last step and validation
        shutil.rmtree(run)
        _train(family, piece, done, total)


def _has_ended(run: Path, piece: Piece) -> bool:
    """Whether a piece is trained already, and has all that its row of results needs."""
    settings, export = run / SETTINGS, run / "export" / "provenance.json"  # the export is written last
    if settings.is_file() and settings.read_text() != _settings(piece):
        raise UserError(
            f"{run} was trained with other settings than it would be now: give another --folder, or remove it"
        )
    measured = piece.point is None or (run / LOSS).is_file()
    return measured and export.is_file() and json.loads(export.read_text())["steps"] == piece.last


def _settings(piece: Piece) -> str:
    """What a piece's result follows from."""
    return json.dumps({"options": piece.size.digest, "steps": piece.last}) + "\n"


def _schedule(family: Family, piece: Piece) -> list[str]:
    """A trunk keeps the peak rate and measures nothing; a branch decays, and is measured at its end."""
    if piece.point is None:
        return ["--model.init_args.min_lr_ratio=1", "--trainer.limit_val_batches=0"]
    return [
        f"--model.init_args.min_lr_ratio={family.min_lr_ratio}",
        f"--model.init_args.decay_share={family.decay_share}",
        "--trainer.check_val_every_n_epoch=null",  # so that the interval counts batches over all epochs
        f"--trainer.val_check_interval={piece.last * piece.size.accumulate}",
    ]


def _callback(name: str, arguments: dict[str, Any]) -> str:
    return f"--trainer.callbacks+={json.dumps({'class_path': f'{CALLBACKS}.{name}', 'init_args': arguments})}"


def _fit(run: Path, options: list[str]) -> None:
    """Runs `trivium fit` in this process; what it prints is added to the run's log, with the command."""
    from experiments.commands.fit import main as fit

    run.mkdir(parents=True, exist_ok=True)
    with open(run / LOG, "a", encoding="utf-8") as log, _told_to(log):
        print(f"$ trivium fit {shlex.join(options)}", flush=True)
        with _grouped(run.parent.name):
            code = fit(["fit", *options])
    if code:
        raise SystemExit(code)


@contextmanager
def _told_to(log: TextIO) -> Iterator[None]:
    """What is printed or logged within goes to a file; Lightning's loggers keep an older stderr."""
    handlers = [each for name in LOGGERS for each in logging.getLogger(name).handlers]
    streams = {each: each.stream for each in handlers if isinstance(each, logging.StreamHandler)}
    try:
        for handler in streams:
            handler.setStream(log)
        with redirect_stdout(log), redirect_stderr(log):
            yield
    finally:
        for handler, stream in streams.items():
            handler.setStream(stream)


@contextmanager
def _grouped(name: str) -> Iterator[None]:
    """W&B runs that begin within belong to one group of its page, unless the user has named another."""
    given = "WANDB_RUN_GROUP" in os.environ
    os.environ.setdefault("WANDB_RUN_GROUP", name)
    try:
        yield
    finally:
        if not given:
            del os.environ["WANDB_RUN_GROUP"]


def row(family: Family, point: Point) -> dict[str, Any]:
    """A point's row of `results.csv`; it must have been trained."""
    run, size = family.folder / point.name, point.size
    mixture = json.loads((run / "export" / "provenance.json").read_text()).get("mixture", {})
    return {
        "size": size.name,
        "budget": point.budget,
        "parameters": size.parameters,
        "parameters_without_embeddings": size.without_embeddings,
        "tokens": point.tokens,
        "loss": json.loads((run / LOSS).read_text())["loss"],
        "flops": point.flops,
        "flops_with_attention": 3.0 * size.forward_flops * point.tokens,
        "steps": point.steps,
        "learning_rate": size.learning_rate,
        "most_epochs": round(max((source["epochs"] for source in mixture.values()), default=0.0), 3),
    }


def write_results(family: Family, points: Sequence[Point]) -> None:
    """Writes `results.csv`: a row for every point that is trained, as `trivium scaling fit` reads it."""
    ended = [each for each in points if _has_ended(family.folder / each.name, alone(each))]
    rows = [row(family, each) for each in ended]
    text = io.StringIO()
    writer = csv.DictWriter(text, list(rows[0]), lineterminator="\n")
    writer.writeheader()
    writer.writerows(rows)
    write_text(family.folder / "results.csv", text.getvalue())
