"""Several models on several tasks: what is missing is measured, what has ended is read."""

from collections.abc import Mapping, Sequence
from functools import partial

from rich.console import Console
from rich.progress import Progress

from experiments.cli.user_errors import UserError
from experiments.evaluation.engine import Model, NoRoom, digest
from experiments.evaluation.measure import Unit, check_room, identity, measure, units
from experiments.evaluation.registry import Asked
from experiments.evaluation.store import Result, Store


def evaluate(
    models: Mapping[str, str],
    tasks: Sequence[Asked],
    shots: Sequence[int] | None,
    limit: int | None,
    store: Store,
    progress: Progress,
    explicit: bool = True,
    console: Console | None = None,
) -> list[Result]:
    """Measures every model on every task in every way, and keeps each result as soon as it is there.

    Args:
        models: name → Hugging Face directory or cached hub name.
        tasks: and the ways in which each is asked.
        shots: numbers of examples; None = each task's own.
        limit: items of a task at most; None = all.
        store: where results are kept.
        progress: a bar for each model.
        explicit: the tasks were asked for by name, so that one which a model has no room for is refused; else
            it is left out and told to `console`.

    Raises:
        UserError: a model or a task that cannot be evaluated; a name that another model's results have.
    """
    wanted = [(unit, identity(unit)) for unit in units(tasks, shots, limit)]
    labels = [unit.label for unit, _ in wanted]
    if twice := [label for label in labels if labels.count(label) > 1]:
        raise UserError(
            f"--tasks: two are named `{twice[0]}`: name a task once, and two files apart by `name`"
        )
    digests = {name: digest(path) for name, path in models.items()}
    for name, path in models.items():
        store.claim(name, path, digests[name])
    results = []
    for name, path in models.items():
        known = {id(unit): store.ended(name, unit, digests[name], asked) for unit, asked in wanted}
        missing = [unit for unit, _ in wanted if known[id(unit)] is None]
        model = Model.load(path, name) if missing else None
        left_out = _without_room(model, missing, explicit, console) if model else set()
        bar = progress.add_task(
            name, total=sum(len(unit.rows()) for unit in missing if id(unit) not in left_out)
        )
        for unit, asked in wanted:
            result = known[id(unit)]
            if result is None and id(unit) not in left_out:
                assert model is not None
                progress.update(bar, description=f"{name}: {unit.label}")
                measured = measure(model, unit, partial(progress.advance, bar))
                result = store.save(name, unit, digests[name], asked, measured)
            if result is not None:
                results.append(result)
    return results


def _without_room(model: Model, wanted: Sequence[Unit], explicit: bool, console: Console | None) -> set[int]:
    """Which units a model has no positions for."""
    left_out = set()
    for unit in wanted:
        try:
            check_room(model, unit)
        except NoRoom as error:
            if explicit:
                raise
            left_out.add(id(unit))
            if console is not None:
                console.print(f"left out: {str(error).removeprefix('--tasks: ')}", highlight=False)
    return left_out
