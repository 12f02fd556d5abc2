"""Several models on several tasks: what is missing is measured, what has ended is read."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from typing import TypeVar

from rich.progress import Progress

from experiments.cli.user_errors import UserError
from experiments.evaluation.engine import Model, digest
from experiments.evaluation.measure import Identity, Unit, check_room, identity, measure, units
from experiments.evaluation.registry import Asked
from experiments.evaluation.store import Result, Store

Wanted = list[tuple[Unit, Identity]]
T = TypeVar("T")
LeaveOut = Callable[[str], None]
"""told why a task is left out"""


def evaluate(
    models: Mapping[str, str],
    tasks: Sequence[Asked],
    shots: Sequence[int] | None,
    limit: int | None,
    store: Store,
    progress: Progress,
    leave_out: LeaveOut | None = None,
) -> list[Result]:
    """Measures every model on every task in every way, and keeps each result as soon as it is there.

    Args:
        models: name → Hugging Face directory or cached hub name.
        tasks: and the ways in which each is asked.
        shots: numbers of examples; None = each task's own.
        limit: items of a task at most; None = all.
        store: where results are kept.
        progress: a bar for each model.
        leave_out: told of what cannot be asked (no room in a model's positions, too few examples, a package
            that is not installed), which is then left out; None = it is refused.

    Raises:
        UserError: a model or a task that cannot be evaluated; a name that another model's results have.
    """
    wanted = list(_possible(units(tasks, shots, limit), identity, leave_out))
    labels = [unit.label for unit, _ in wanted]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(f"--tasks: two are named `{twice[0]}`: name a task once, two files apart by `name`")
    digests = {name: digest(path) for name, path in models.items()}
    for name, path in models.items():
        store.check(name, path, digests[name])
    results: list[Result] = []
    for name, path in models.items():
        results += _evaluate_one(name, path, digests[name], wanted, store, progress, leave_out)
    return results


def _evaluate_one(
    name: str,
    path: str,
    model_digest: str,
    wanted: Wanted,
    store: Store,
    progress: Progress,
    leave_out: LeaveOut | None,
) -> Iterator[Result]:
    """The results of one model, whose weights are read where one is missing."""
    known = {unit.label: store.ended(name, unit, model_digest, asked) for unit, asked in wanted}
    missing = [unit for unit, _ in wanted if known[unit.label] is None]
    if missing:
        model = Model.load(path, name)
        missing = [unit for unit, _ in _possible(missing, partial(check_room, model), leave_out)]
        store.claim(name, path, model_digest)
    bar = progress.add_task(name, total=sum(len(unit.rows()) for unit in missing))
    for unit, asked in wanted:
        result = known[unit.label]
        if unit in missing:
            progress.update(bar, description=f"{name}: {unit.label}")
            measured = measure(model, unit, partial(progress.advance, bar))
            result = store.save(name, unit, model_digest, asked, measured)
        if result is not None:
            yield result


def _possible(
    wanted: Sequence[Unit], ask: Callable[[Unit], T], leave_out: LeaveOut | None
) -> Iterator[tuple[Unit, T]]:
    """Units, and what `ask` gives of each; without those that it refuses, where they may be left out."""
    for unit in wanted:
        try:
            yield unit, ask(unit)
        except UserError as error:
            if leave_out is None:
                raise
            text = str(error).removeprefix("--tasks: ")
            leave_out(text if text.startswith(unit.label) else f"{unit.label}: {text}")
