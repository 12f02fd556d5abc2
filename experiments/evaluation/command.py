"""`trivium evaluate DIR…`: what models can do, with intervals, side by side."""

import argparse
import json
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from experiments.cli.arguments import ArgumentParser
from experiments.cli.quiet import hush
from experiments.cli.user_errors import UserError
from experiments.evaluation.registry import BUILT_IN, Asked, asked

LIMIT = 100  # items a task
OUTPUT = "runs/evaluation"
EPILOG = f"""tasks: {", ".join(BUILT_IN)};
a class of your own as package.module.Class; a YAML file of rows, template, answer and metric.
TASK+steps, TASK+retrieval (with --documents) and TASK+restricted ask all of a task in that way.

  trivium evaluate runs/quickstart/sft/export runs/quickstart/ppo/export --compare
  trivium evaluate base=runs/quickstart/pretrain/export --tasks sentiment,maths --shots 0,1,4
  trivium evaluate runs/quickstart/sft/export --tasks my_task.yaml+steps --json"""


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
        prog="trivium evaluate",
        description="Puts tasks to language models and shows what they can do, each figure with its\n"
        "interval. What has been measured is kept and not measured again: an interrupted command goes on.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    models = "Hugging Face directories or cached hub names, a name before them if wanted: NAME=DIR"
    option("models", nargs="*", metavar="DIR", help=models)
    option("--tasks", help="names with commas between them (all built-in tasks for which a model has room)")
    option("--shots", help="examples shown, as 0,1,4 (each task's own)")
    option("--limit", type=int, default=LIMIT, help=f"items of a task at most ({LIMIT})")
    option("--compare", action="store_true", help="pair models, and ways of asking, item by item")
    option("--documents", nargs="+", default=[], metavar="PATH", help="what `+retrieval` looks in")
    option("--output", default=OUTPUT, help=f"folder of results and answers ({OUTPUT})")
    option("--json", action="store_true", help="one line of JSON for each model × task × way")
    option("--wandb", metavar="PROJECT", help="also log a run for each model to this W&B project")
    harness = "tasks of lm-eval, or its YAML files, in place of ours (needs trivium[eval])"
    option("--lm-eval", metavar="TASKS", help=harness)
    return parser


def main(argv: list[str]) -> int:
    """Runs `trivium evaluate …`."""
    options = parser().parse_args(argv)
    models = named_models(options.models)
    shots = None if options.shots is None else shot_counts(options.shots)
    if options.limit < 1:
        raise UserError(f"--limit is {options.limit}: give 1 or more")
    if not models and not options.compare:
        raise UserError("evaluate: no model: give a Hugging Face directory, or --compare alone for --output")
    hush()
    for path in models.values():
        from experiments.evaluation.engine import check_path, tokenizer_of

        check_path(path)
        tokenizer_of(path)
    if options.lm_eval is not None:
        from experiments.evaluation.harness import main as harness

        return harness(models, options.lm_eval, options.limit, options.output, options.json)
    names = options.tasks.split(",") if options.tasks else list(BUILT_IN)
    tasks = [asked(name.strip(), options.documents) for name in names]
    _run(models, tasks, shots, options)
    return 0


def _run(models: dict[str, str], tasks: Sequence[Asked], shots: Sequence[int] | None, options: Any) -> None:
    from experiments.evaluation.compare import compare
    from experiments.evaluation.run import evaluate
    from experiments.evaluation.show import show
    from experiments.evaluation.store import Store

    store = Store(options.output)
    console = Console(stderr=options.json)
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        tell = None if options.tasks else partial(console.print, "left out:", highlight=False)
        results = evaluate(models, tasks, shots, options.limit, store, progress, tell)
    if not models:
        results = store.results()
        if not results:
            raise UserError(f"--compare: {options.output} holds no results: evaluate a model first")
    comparisons = compare(store, results) if options.compare else []
    if options.json:
        for result in results:
            print(result.line())
        for comparison in comparisons:
            print(json.dumps({"comparison": comparison._asdict()}, ensure_ascii=False))
    else:
        show(results, comparisons, console)
        console.print(f"answers: {options.output}", highlight=False)
    if options.wandb:
        from experiments.evaluation.wandb_runs import log_runs

        log_runs(options.wandb, results)
    sys.stdout.flush()


def named_models(given: Sequence[str], command: str = "evaluate") -> dict[str, str]:
    """Name → directory of each model. Without a name of its own, a model is called by its folder, an `export`
    by the folder around it. `command` is what refusals name.

    Raises:
        UserError: two have the same name.
    """
    models: dict[str, str] = {}
    for each in given:
        name, equals, path = each.partition("=")
        if not equals:
            path = each
            parts = [part for part in Path(each).parts if part not in ("/", ".", "..")]
            parts = parts[:-1] if parts[1:] and parts[-1] == "export" else parts
            name = parts[-1] if parts else Path(each).resolve().name
        if not name.strip(".") or "/" in name or not path:
            raise UserError(f"{command}: `{each}` is no model: give DIR or NAME=DIR")
        if name in models:
            raise UserError(f"{command}: two models are named `{name}`: name them apart, as other={path}")
        models[name] = path
    return models


def shot_counts(text: str) -> list[int]:
    """`0,1,4` → numbers of examples.

    Raises:
        UserError: one is no whole number, or below 0.
    """
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isdecimal() for part in parts):
        raise UserError(f"--shots is {text}: give whole numbers with commas between them, as 0,1,4")
    return list(dict.fromkeys(map(int, parts)))
