"""The one change to a run that would save most memory."""

import json
from typing import NamedTuple

import strategies
from experiments.plan.account import account, cuts
from experiments.plan.buffers import GATHERING
from experiments.plan.config import Run
from experiments.plan.memory import DEEPSPEED
from experiments.plan.strategy import Cut

WORTH = 0.95  # a change that leaves more than this share of the peak is none


class Change(NamedTuple):
    """A change to a run."""

    text: str
    """what to give"""
    peak: int
    """bytes of a rank with it"""


def changes(run: Run) -> list[Change]:
    """What could be changed, one at a time: the strategy, whole networks while they sample, activation
    checkpointing, the rows of a forward."""
    found = []
    for name, cut in cuts(run).items() if run.devices > 1 else ():
        known = ("deepspeed" if name in DEEPSPEED else name) in strategies.__all__
        if name != run.cut.strategy and known:
            found.append(Change(_strategy(cut), account(run, cut).peak))
    if run.rollout and run.cut.options.gather_to_sample and run.cut.strategy in GATHERING:
        lean = run.cut.sampling_by_block
        found.append(Change(_strategy(lean), account(run, lean).peak))
    if run.checkpointing is False:
        peak = account(run, run.cut, True).peak
        found.append(Change("--model.init_args.activation_checkpointing true", peak))
    if run.micro_batch_size > 1:
        smaller = run._replace(rows=max(1, run.rows // run.micro_batch_size), accumulates=True)
        where = "model" if run.rollout else "data"
        found.append(Change(f"--{where}.init_args.micro_batch_size 1", account(smaller, run.cut).peak))
    return found


def most_helpful(run: Run) -> Change | None:
    """The change with which a rank needs least; None where none is worth it."""
    best = min(changes(run), key=lambda change: change.peak, default=None)
    return best if best and best.peak < WORTH * account(run, run.cut).peak else None


def _strategy(cut: Cut) -> str:
    name, options = cut.strategy, dict(cut.given)
    if name in DEEPSPEED:
        name, options["stage"] = "deepspeed", int(cut.strategy[-1])
    elif cut.tensor > 1 and cut.data > 1 and not options:
        options["tensor_parallel"] = cut.tensor
    if not options:
        return f"--trainer.strategy strategies.{name}"
    form = json.dumps({"class_path": f"strategies.{name}", "init_args": options})
    return f"--trainer.strategy '{form}'"
