"""The quickstart's stages through the program's own commands: how far each goes, training and prediction."""

import json
import shlex
from pathlib import Path
from typing import Any

from rich.console import Console

from experiments.cli.user_errors import UserError
from experiments.quickstart.pace import StageBudget

FOLDER = Path("runs/quickstart")
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


def train(name: str, steps: int, *options: str) -> None:
    """Trains a stage through the CLI with its YAML to so many steps, going on from its last checkpoint where
    there is one."""
    arguments = ["--config", str(CONFIGS / f"{name}.yaml"), "--trainer.max_steps", str(steps)]
    arguments += ["--checkpoint_minutes", "0.5"]
    if (FOLDER / name / "checkpoints" / "last.ckpt").is_file():
        arguments += ["--ckpt_path", "newest"]
    trivium("fit", *arguments, *options)


def measure(budget: StageBudget) -> float:
    """Trains a stage's first steps, which those to come go on from, and gives the seconds that one takes."""
    file = FOLDER / budget.name / "pace.json"
    if not file.is_file():
        pace = {"class_path": "experiments.quickstart.pace.Pace", "init_args": {"file": str(file)}}
        options = ["--trainer.limit_val_batches", "0", f"--trainer.callbacks+={json.dumps(pace)}"]
        if budget.name == "reward":
            options += ["--model.init_args.offset_replies", "16"]  # taken over more at the real end
        train(budget.name, budget.first, *options)
    return float(json.loads(file.read_text()))


def predict(stage: str, folder: str, **networks: str) -> list[dict[str, Any]]:
    """Runs `trivium predict` with a stage's YAML and gives the rows that it wrote. The run's folder, and the
    export that takes the place of an argument's network, are within the quickstart's."""
    options = [f"--model.init_args.{name}={FOLDER / export}" for name, export in networks.items()]
    config = str(CONFIGS / f"{stage}.yaml")
    trivium("predict", "--config", config, "--run", str(FOLDER / folder), *options)
    return read_rows(f"{folder}/predictions.jsonl")


def read_rows(name: str) -> list[dict[str, Any]]:
    """The rows of a JSON lines file in the quickstart's folder."""
    with open(FOLDER / name, encoding="utf-8") as lines:  # `splitlines` would cut within a string, at U+2028
        return [json.loads(line) for line in lines]


def trivium(*arguments: str) -> None:
    """Runs a command of the program in this process, and shows it so that it can be repeated.

    Raises:
        UserError: it was refused; what it printed says why.
        SystemExit: it met a bug, and has printed the trace.
    """
    from experiments.cli.program import main as program

    Console().print(f"[dim]$ trivium {shlex.join(arguments)}", highlight=False)
    code = program(list(arguments))
    if code == 2:
        raise UserError(f"`trivium {arguments[0]}` was refused; see above")
    if code != 0:
        raise SystemExit(code)
