"""`trivium plan --config X`: the plan of a run as tables and words."""

import json
import logging
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence

import transformers
from rich.box import SIMPLE
from rich.table import Table

from experiments.plan.budget import read_budget
from experiments.plan.config import Run, read_run
from experiments.plan.memory import MemoryEstimate
from experiments.plan.printing import show
from experiments.plan.run_plan import Estimates, RunPlan, as_json, run_plan
from experiments.plan.scaling import TWENTY_NOTE
from experiments.plan.units import amount, duration, size
from experiments.plan.work import read_lengths

PARTS = (*MemoryEstimate._fields[:8], "peak")  # all but what is not on the device


def main(options: Namespace, overrides: Sequence[str]) -> int:
    """Prints the plan of a run, whose configuration may be overridden as for `trivium fit`.

    Raises:
        UserError: a mistake in it.
    """
    budget = read_budget(options)
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
    transformers.logging.set_verbosity_error()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    run = read_run(options.config, overrides, budget.devices)
    plan = run_plan(run, budget, read_lengths(options.config, overrides) if options.read_data else None)
    if options.json:
        print(json.dumps(as_json(plan), ensure_ascii=False))
        return 0
    table = strategies_table(run, plan.memory, plan.estimates)
    assumptions = [f"assumed: {note}" for note in run.notes]
    show(*heading(run), table, *choice_lines(plan), *work_lines(plan), *scaling_lines(plan), *assumptions)
    return 0


def heading(run: Run) -> list[str]:
    """What is planned."""
    networks = ", ".join(f"{network.name} {network.sizes.parameters:,}" for network in run.networks)
    return [
        f"{run.stage}: parameters: {networks}",
        f"{run.precision}, {run.parallelism.name} on {run.devices} device{'s' if run.devices > 1 else ''}, "
        f"{run.rows} rows of at most {run.tokens} tokens a forward",
    ]


def strategies_table(run: Run, memory: int, estimates: Mapping[str, Estimates]) -> Table:
    """Bytes of a rank, a column for every strategy: the run's own first, those without room in red."""
    own = estimates[run.parallelism.name]
    columns = [own, *(each for each in estimates.values() if each is not own)]
    title = "bytes of a rank at its fullest" + (", activations computed again" if run.checkpointing else "")
    table = Table(title=title, title_justify="left", box=SIMPLE, padding=(0, 1, 0, 0))
    table.add_column("")
    for each in columns:
        style = "bold red" if each.configured.peak > memory else "bold" if each is own else None
        table.add_column(
            each.parallelism.label, justify="right", style=style, header_style=style, no_wrap=True
        )
    for part in PARTS:
        row = [size(getattr(each.configured, part), 3) for each in columns]
        table.add_row(part.replace("kv_", "KV "), *row, end_section=part == PARTS[-2])
    if any(each.configured.host for each in columns):
        table.add_row("offloaded", *(size(each.configured.host, 3) for each in columns))
    table.add_row("checkpointed", *(size(each.checkpointed.peak, 3) for each in columns))
    return table


def choice_lines(plan: RunPlan) -> list[str]:
    """What fits, and what to choose."""
    own, choice = plan.run.parallelism.name, plan.choice
    verdict = "fits" if plan.fits[own] else "does not fit"
    options = " with activation checkpointing" if choice.strategy and choice.checkpointing else ""
    options += "" if choice.gather_to_sample else " and gather_to_sample false"
    return [
        f"memory: {size(plan.memory)} ({plan.where}); {own} {verdict}",
        f"choice: {choice.strategy or 'nothing'}{options}: {choice.reason}",
    ]


def work_lines(plan: RunPlan) -> Iterator[str]:
    """Tokens, steps, FLOPs and time."""
    todo, budget = plan.work, plan.budget
    rules = ", ".join(f"{rule} = {amount(tokens)}" for rule, tokens in plan.rules_of_thumb.items())
    yield f"tokens by rules of thumb: {rules}"
    step = f"{amount(todo.step_tokens)} tokens a step at most"
    forward = f"{todo.forward_flops_per_token:.4g}"
    if todo.steps is None or todo.tokens is None:
        yield (
            f"{step}; the number of steps comes from the data: --read-data encodes it, or give --tokens or "
            "--trainer.max_steps"
        )
        yield f"forward: {forward} FLOPs a token"
        return
    yield f"{step}, {todo.steps:,} steps, {amount(todo.tokens)} tokens"
    yield f"FLOPs: {todo.flops:.4g} (6·N·D: {todo.flops_6nd:.4g}), forward {forward} a token"
    seconds = budget.time(todo.flops, plan.run.devices)
    if seconds is None:
        yield "time: give --flops, a device's peak, and --mfu, the share of it that is reached"
    else:
        speed = f"at {budget.mfu:.0%} of {budget.flops:.4g} FLOPs a second and device"
        yield f"time: an estimated {duration(seconds)}, {speed}"


def scaling_lines(plan: RunPlan) -> Iterator[str]:
    """What the scaling law says of a pretraining run."""
    law = plan.scaling
    if law is None:
        return
    yield "by L = E + A/N^α + B/D^β a model of this size is the best use of compute at:"
    for name, tokens in law["optimal_tokens"].items():
        line = f"  {name:<20}  {amount(tokens)} tokens"
        if law["optimum"]:
            best = law["optimum"][name]
            line += f"; for this run's compute {amount(best['parameters'])} parameters on "
            line += f"{amount(best['tokens'])} tokens"
        yield line
    yield f"  {TWENTY_NOTE}"
