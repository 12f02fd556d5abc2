"""`trivium evaluate --lm-eval TASKS`: hands models to lm-eval, in this process."""

import json
import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from rich.console import Console
from rich.table import Table

from experiments.atomic import write_text
from experiments.cli.user_errors import UserError
from experiments.evaluation.engine import digest
from experiments.evaluation.store import Store

BATCH = 8  # requests that lm-eval computes together


def main(models: Mapping[str, str], given: str, limit: int, output: str, as_json: bool) -> int:
    """Runs tasks of lm-eval on models and prints their metrics with standard errors; its own results go to
    `lm-eval/results.json` in a model's folder.

    Args:
        models: name → directory.
        given: names or YAML files of tasks, with commas between them.
        limit: items of a task at most.
        output: folder of results.
        as_json: print a line for each model × task.

    Raises:
        UserError: lm-eval is not installed, or does not know a task.
    """
    names, folders = local_tasks([name.strip() for name in given.split(",")])
    manager = task_manager(names, folders)
    lines, store = [], Store(output)
    digests = {model: digest(path) for model, path in models.items()}
    for model, path in models.items():
        store.check(model, path, digests[model])
    for model, path in models.items():
        results = run(path, names, limit, manager)
        text = json.dumps(results, indent=2, ensure_ascii=False, default=str)
        store.claim(model, path, digests[model])
        write_text(Path(output) / model / "lm-eval" / "results.json", text + "\n")
        for task, metrics in results.items():
            numbers = {key: value for key, value in metrics.items() if isinstance(value, int | float)}
            lines.append({"model": model, "task": f"lm-eval:{task}", "metrics": numbers})
    if as_json:
        for line in lines:
            print(json.dumps(line, ensure_ascii=False))
    else:
        _show(lines)
    return 0


def local_tasks(given: Sequence[str]) -> tuple[list[str], list[str]]:
    """The names of tasks, of which some are given as YAML files, and the folders of those files.

    Raises:
        UserError: a file that is no task of lm-eval.
    """
    names, folders = [], []
    for each in given:
        if not each.endswith((".yaml", ".yml")):
            names.append(each)
            continue
        file = Path(each)
        if not file.is_file():
            raise UserError(f"--lm-eval: {each} does not exist: give a task's name or YAML file")
        try:
            content = yaml.load(file.read_text(encoding="utf-8"), Loader=yaml.BaseLoader)
        except yaml.YAMLError:  # lm-eval's own `!function`
            content = None
        if not (isinstance(content, dict) and content.get("task")):
            raise UserError(f"--lm-eval: {each} names no `task`: give a task file of lm-eval")
        names.append(str(content["task"]))
        folders.append(str(file.resolve().parent))
    return names, folders


def task_manager(names: Sequence[str], folders: Sequence[str]) -> Any:
    """lm-eval's index of tasks: of local files alone where all are local, which takes no time.

    Raises:
        UserError: lm-eval is not installed, or does not know a task.
    """
    try:
        from lm_eval.models import huggingface  # noqa: F401 (its own extra, without which no model is run)
        from lm_eval.tasks import TaskManager
    except ImportError as error:
        raise UserError("--lm-eval needs lm-eval and its models: pip install 'trivium[eval]'") from error
    logging.getLogger("lm_eval").setLevel(logging.ERROR)
    manager = TaskManager(include_path=list(folders) or None, include_defaults=len(folders) < len(names))
    unknown = [name for name in names if name not in manager.all_tasks]
    if unknown:
        raise UserError(f"--lm-eval: lm-eval has no task `{unknown[0]}`: `lm_eval ls tasks` lists them")
    return manager


def run(path: str, names: Sequence[str], limit: int, manager: Any) -> dict[str, dict[str, Any]]:
    """lm-eval's results: task → its metrics."""
    from lm_eval import simple_evaluate

    model = language_model(path)
    results = simple_evaluate(
        model=model,
        tasks=list(names),
        limit=limit,
        task_manager=manager,
        bootstrap_iters=0,
        log_samples=False,
    )
    return {name: dict(metrics) for name, metrics in (results or {})["results"].items()}


def language_model(path: str) -> Any:
    """A directory as lm-eval's `HFLM`, in fp32, with its own tokenizer."""
    import torch
    from lm_eval.models.huggingface import HFLM
    from transformers import AutoTokenizer

    from modules.hf_load import load_causal_lm

    device = "cuda" if torch.cuda.is_available() else "cpu"
    model: Any = load_causal_lm(path).float().eval()
    tokenizer = AutoTokenizer.from_pretrained(path)
    return HFLM(pretrained=model.to(device), tokenizer=tokenizer, device=device, batch_size=BATCH)


def _show(lines: Sequence[Mapping[str, Any]]) -> None:
    table = Table("model", "task", "metric", "value", "standard error")
    for line in lines:
        for name, value in line["metrics"].items():
            metric, _, kind = name.partition(",")
            if not metric.endswith("_stderr") and kind:
                error = line["metrics"].get(f"{metric}_stderr,{kind}")
                shown = "–" if error is None else f"{error:.4f}"
                table.add_row(line["model"], line["task"], metric, f"{value:.4f}", shown)
    Console().print(table)
