"""The quickstart's stages through the program's own commands: how far each goes, training and prediction."""

import json
import shlex
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from experiments.cli.user_errors import UserError

FOLDER = Path("runs/quickstart")
CONFIGS = Path(__file__).resolve().parent.parent / "configs"


class StageBudget(NamedTuple):
    """How far a stage goes in the full ten minutes, in optimizer steps, and however short the budget is."""

    name: str
    title: str
    steps: int
    fewest: int


BUDGETS = (
    StageBudget("pretrain", "Pretraining", 640, 60),
    StageBudget("sft", "Supervised fine-tuning", 320, 30),
    StageBudget("reward", "Reward model", 300, 30),
    StageBudget("ppo", "PPO", 200, 8),
)


def run_stage(budget: StageBudget, minutes: float) -> None:
    """Trains a stage through the CLI with its YAML, going on from its last checkpoint where there is one."""
    steps = max(budget.fewest, round(budget.steps * minutes / 10))
    arguments = ["--config", str(CONFIGS / f"{budget.name}.yaml"), "--trainer.max_steps", str(steps)]
    arguments += ["--checkpoint_minutes", "0.5"]
    if (FOLDER / budget.name / "checkpoints" / "last.ckpt").is_file():
        arguments += ["--ckpt_path", "last"]
    trivium("fit", *arguments)


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
