"""Tasks by name: the built-in ones, a class path, or a YAML file; each with transformers after a `+`."""

import inspect
from collections.abc import Mapping, Sequence
from difflib import get_close_matches
from importlib import import_module
from typing import NamedTuple

from experiments.cli.user_errors import UserError
from experiments.evaluation.task import Task, Transformer
from experiments.evaluation.transformers import named_transformer

BUILT_IN = {
    "sentiment": "sentiment.Sentiment",
    "translation": "translation.Translation",
    "in-context": "in_context.InContext",
    "choices": "choices.Choices",
    "maths": "maths.Maths",
    "instructions": "instructions.Instructions",
    "facts": "facts.Facts",
    "restriction": "restriction.Restriction",
}
TASKS = f"{__package__}.tasks"


class Asked(NamedTuple):
    """A task, and the ways in which its items are asked."""

    task: Task
    variants: Mapping[str, tuple[Transformer, ...]]


def asked(spec: str, documents: Sequence[str] = ()) -> Asked:
    """What `--tasks` names: `NAME`, `package.module.Class` or `file.yaml`, with `+steps`, `+retrieval` or
    `+restricted` after it for the whole task asked in that way.

    Raises:
        UserError: there is no such task or transformer, or it does not fit.
    """
    name, *added = spec.split("+")
    task = task_named(name)
    if not added:
        return Asked(task, task.variants())
    transformers = tuple(named_transformer(each, documents) for each in added)
    rows = task.rows()
    if rows and task.prompt(rows[0]).spans:
        raise UserError(
            f"--tasks: {name} only measures how likely texts are: nothing can be added to its questions"
        )
    return Asked(
        task,
        {
            "+".join(filter(None, [base, *added])): (*before, *transformers)
            for base, before in task.variants().items()
        },
    )


def task_named(name: str) -> Task:
    """A task by its name, class path or file."""
    if name.endswith((".yaml", ".yml")):
        from experiments.evaluation.yaml_task import YamlTask

        return YamlTask(name)
    if name in BUILT_IN:
        return _of_class(f"{TASKS}.{BUILT_IN[name]}")
    if "." in name:
        return _of_class(name)
    near = get_close_matches(name, BUILT_IN, n=1)
    hint = (
        f"did you mean `{near[0]}`?" if near else f"give {', '.join(BUILT_IN)}, a class path or a YAML file"
    )
    raise UserError(f"--tasks: there is no task `{name}`: {hint}")


def _of_class(path: str) -> Task:
    module, _, name = path.rpartition(".")
    try:
        found = getattr(import_module(module), name)
    except (ImportError, AttributeError) as error:
        raise UserError(f"--tasks: there is no class `{path}`: {error}") from error
    if not (inspect.isclass(found) and issubclass(found, Task)) or inspect.isabstract(found):
        raise UserError(f"--tasks: `{path}` is no whole task: write a class of experiments.evaluation.Task")
    try:
        return found()
    except TypeError as error:
        raise UserError(
            f"--tasks: `{path}` takes arguments: {error}: give its defaults in the class"
        ) from error
