"""How many steps fit into the quickstart's minutes: measured on this machine, stage by stage.

A stage's first steps, those of its warm-up, do not depend on how many follow; they are timed, and the rest of
the time says how many do.
"""

import json
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
from lightning.pytorch.callbacks import Callback

from experiments.atomic import write_text
from experiments.cli.user_errors import UserError


class StageBudget(NamedTuple):
    """A stage of the quickstart: how far it goes, in optimizer steps, and what it cost where that was set."""

    name: str
    title: str
    steps: int
    """the share of the stages; all bars are met with as many"""
    first: int
    """timed: warm-up and one more, so that the learning rate is as in any longer run"""
    unit: int
    """steps of a batch: PPO takes whole iterations"""
    fewest: int
    """however little time there is"""
    enough: int
    """with fewer its bars are not expected to be met"""
    most: int
    """with more it might leave its bars again"""
    seconds: float
    """of a step, on the machine where this was set"""
    fixed: float
    """seconds beside the steps, there: building, validation, export"""


# seconds in the proportion of CPU time on a Xeon core with AMX, in bf16, scaled to about what two take
BUDGETS = (
    StageBudget("pretrain", "Pretraining", 640, 51, 1, 60, 480, 6400, 0.23, 12),
    StageBudget("sft", "Supervised fine-tuning", 320, 21, 1, 30, 240, 3200, 0.31, 10),
    StageBudget("reward", "Reward model", 300, 21, 1, 30, 225, 3000, 0.36, 16),
    StageBudget("ppo", "PPO", 200, 16, 8, 24, 152, 280, 0.53, 10),
)
EVALUATION = 82.0  # seconds after the last stage, on the machine of the budgets


class Pace(Callback):
    """Times a run's batches and writes the seconds of an optimizer step into a file when it ends. The first
    half is not counted: it warms caches."""

    def __init__(self, file: str):
        self.file = Path(file)
        self.ends: list[float] = []  # of batches: seconds of the clock,
        self.steps: list[int] = []  # and optimizer steps done

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.ends, self.steps = [time.perf_counter()], [trainer.global_step]

    def on_train_batch_end(self, trainer: L.Trainer, *args: Any) -> None:
        self.ends.append(time.perf_counter())
        self.steps.append(trainer.global_step)

    def on_train_end(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        half = len(self.ends) // 2
        steps = self.steps[-1] - self.steps[half]
        if steps > 0:
            write_text(self.file, json.dumps((self.ends[-1] - self.ends[half]) / steps))


def slowness(measured: Mapping[str, float]) -> float:
    """How much longer steps take here than where the budgets were set, over the stages that are measured
    (seconds of a step by stage)."""
    known = [budget for budget in BUDGETS if budget.name in measured]
    here = sum(measured[each.name] * each.steps for each in known)
    return here / sum(each.seconds * each.steps for each in known)


def choose(budget: StageBudget, measured: Mapping[str, float], left: float) -> int:
    """The steps of a stage, so that all that is to come takes the seconds that are left.

    What is to come is stretched alike: so many times the budgets' steps, of this stage at the pace that was
    measured, of later ones as the budgets say for a machine so much slower; a stage's `most` is kept.

    Args:
        budget: of the stage, whose first steps are done.
        measured: seconds of a step, by stage; this one's too.
        left: seconds, from now to the end of the quickstart.
    """
    slower = slowness(measured)
    later = BUDGETS[BUDGETS.index(budget) + 1 :]
    fixed = budget.fixed + sum(each.fixed for each in later) + EVALUATION
    training = left - slower * fixed + budget.first * measured[budget.name]  # the first steps are among them
    open_ones = {budget: measured[budget.name], **{each: each.seconds * slower for each in later}}
    stretch = 0.0
    while open_ones:
        stretch = training / sum(each.steps * seconds for each, seconds in open_ones.items())
        capped = [each for each in open_ones if each.steps * stretch > each.most]
        if not capped:
            break
        training -= sum(each.most * open_ones.pop(each) for each in capped)
    steps = min(budget.most, budget.steps * stretch if budget in open_ones else budget.most)
    return max(budget.fewest, round(steps / budget.unit) * budget.unit)


def least_minutes(measured: Mapping[str, float], spent: float) -> float:
    """The minutes from which on all bars are expected to be met on this machine.

    Args:
        measured: seconds of a step, by stage.
        spent: seconds so far, for what comes before the stage that was measured last and for its first steps.
    """
    slower, last = slowness(measured), max(i for i, each in enumerate(BUDGETS) if each.name in measured)
    todo = (BUDGETS[last].enough - BUDGETS[last].first) * measured[BUDGETS[last].name]
    todo += slower * sum(each.enough * each.seconds for each in BUDGETS[last + 1 :])
    todo += slower * (sum(each.fixed for each in BUDGETS[last:]) + EVALUATION)
    return (spent + todo) / 60


def fixed_steps(text: str) -> dict[str, int]:
    """Steps by stage, of a text such as `640,320,300,200`.

    Raises:
        UserError: it is something else.
    """
    parts = text.split(",")
    numbers = [int(part) for part in parts if part.isdecimal()]
    pairs = list(zip(BUDGETS, numbers, strict=False))
    if not len(parts) == len(pairs) == len(BUDGETS) or any(n < b.fewest or n % b.unit for b, n in pairs):
        fewest = ",".join(str(each.fewest) for each in BUDGETS)
        raise UserError(
            f"--steps is {text}: give four numbers, PPO's a multiple of 8, none below those of {fewest}"
        )
    return {each.name: number for each, number in pairs}
