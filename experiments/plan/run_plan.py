"""`trivium plan --config X`: the plan of a run, its memory under every strategy, its work and what to choose,
as a table and words or as JSON."""

import json
import logging
import warnings
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, NamedTuple

import transformers
from rich.box import SIMPLE
from rich.console import Group
from rich.table import Table
from rich.text import Text

from datamodules.showing import as_html, as_text
from experiments.plan.advice import Choice, choose
from experiments.plan.budget import Budget, machine_memory, read_budget
from experiments.plan.config import Run, read_run
from experiments.plan.estimate import candidates, estimate_memory, growth
from experiments.plan.memory import MemoryEstimate
from experiments.plan.parallelism import Parallelism
from experiments.plan.scaling import (
    TWENTY_NOTE,
    Fit,
    known_fits,
    low_rank_parameters,
    predictions,
    rules_of_thumb,
)
from experiments.plan.units import amount, duration, show, size
from experiments.plan.work import Work, read_lengths, work

PARTS = (*MemoryEstimate._fields[:8], "peak")  # all but what is not on the device
QUERY_VALUE = ("q_proj", "v_proj")  # the matrices that LoRA's authors adapt (Hu et al. 2021, §4.2)
RANK = 8


class Estimates(NamedTuple):
    """What a rank needs under a strategy."""

    parallelism: Parallelism
    configured: MemoryEstimate  # with activation checkpointing or without, as the run has it
    checkpointed: MemoryEstimate


class RunPlan(NamedTuple):
    """The plan of a run."""

    run: Run
    budget: Budget  # of the command line
    work: Work
    memory: int  # bytes of a device
    where: str  # what that memory is
    estimates: dict[str, Estimates]
    choice: Choice
    laws: Mapping[str, Fit]  # the published ones, and the user's own

    def parts(self) -> list[Any]:
        """What it says: lines and a table."""
        run, assumptions = self.run, [f"assumed: {note}" for note in self.run.notes]
        lines = [*_choice_lines(self), *_work_lines(self), *_scaling_lines(self)]
        return [*_heading(run), strategies_table(run, self.memory, self.estimates), *lines, *assumptions]

    def __repr__(self) -> str:
        return as_text(self._shown())

    def _repr_html_(self) -> str:
        return as_html(self._shown())

    def _shown(self) -> Group:
        return Group(*(Text(part) if isinstance(part, str) else part for part in self.parts()))

    @property
    def fits(self) -> dict[str, bool]:
        """Strategy → whether a rank has room."""
        return {name: each.configured.peak <= self.memory for name, each in self.estimates.items()}

    @property
    def parameters(self) -> int:
        """N of the trained network (PPO: of the actor)."""
        return self.run.networks[0].sizes.parameters

    @property
    def scaling(self) -> dict[str, Any] | None:
        """What the parametric law says of pretraining; of other stages it says nothing."""
        if self.run.stage != "pretrain":
            return None
        return predictions(self.parameters, self.work.tokens, self.work.flops_6nd, self.laws)


def main(options: Namespace, overrides: Sequence[str]) -> int:
    """Prints the plan of a run, whose configuration may be overridden as for `trivium fit`.

    Raises:
        UserError: a mistake in it.
    """
    plan = plan_of(
        options.config, overrides, read_budget(options), known_fits(options.fit), options.read_data
    )
    if options.json:
        print(json.dumps(as_json(plan), ensure_ascii=False))
        return 0
    show(*plan.parts())
    return 0


def plan_of(
    config: Sequence[str],
    overrides: Sequence[str] = (),
    budget: Budget = Budget(),  # noqa: B008 (a tuple)
    laws: Mapping[str, Fit] | None = None,
    read_data: bool = False,
) -> RunPlan:
    """The plan of a run, which shows itself in a notebook.

    Args:
        config: YAML files, as for `trivium fit`.
        overrides: options of `trivium fit`.
        budget: what is at hand.
        laws: the scaling laws to apply; the published ones when missing.
        read_data: whether to encode the data to know the steps.

    Raises:
        UserError: a mistake in them.
    """
    laws = known_fits(None) if laws is None else laws
    warnings.filterwarnings("ignore", ".*LightningCLI's args parameter.*")
    transformers.logging.set_verbosity_error()
    logging.getLogger("lightning.pytorch.utilities.rank_zero").setLevel(logging.ERROR)
    run = read_run(config, overrides, budget.devices)
    lengths = read_lengths(config, overrides) if read_data else None
    memory, where = (budget.memory, "given") if budget.memory else machine_memory(run.local)
    todo = work(run, budget.tokens, lengths)
    return RunPlan(run, budget, todo, memory, where, estimates_of(run), choose(run, memory), laws)


def estimates_of(run: Run) -> dict[str, Estimates]:
    """What a rank needs under every strategy."""
    return {
        name: Estimates(each, estimate_memory(run, each), estimate_memory(run, each, True))
        for name, each in candidates(run).items()
    }


def as_json(plan: RunPlan) -> dict[str, Any]:
    """The plan for programs."""
    run, todo, estimates = plan.run, plan.work, plan.estimates
    parallel = {name: each.parallelism for name, each in estimates.items()}
    return {
        "stage": run.stage,
        "parameters": {network.name: network.sizes.parameters for network in run.networks},
        "devices": run.devices,
        "precision": run.precision,
        "micro_batch": {"rows": run.rows, "tokens": run.tokens},
        "strategy": run.parallelism.name,
        "checkpointing": bool(run.checkpointing),
        "bytes_per_rank": {
            name: {**_bytes(each.configured), "growth": growth(run, each.parallelism)}
            for name, each in estimates.items()
        },
        "with_checkpointing": {name: _bytes(each.checkpointed) for name, each in estimates.items()},
        "degrees": {name: {"data": each.data, "tensor": each.tensor} for name, each in parallel.items()},
        "memory": plan.memory,
        "fits": plan.fits,
        "choice": plan.choice._asdict(),
        "tokens": {"step": todo.step_tokens, "run": todo.tokens, **rules_of_thumb(plan.parameters)},
        "steps": todo.steps,
        "flops": {
            "forward_per_token": todo.forward_flops_per_token,
            "run": todo.flops,
            "run_6nd": todo.flops_6nd,
        },
        "seconds": plan.budget.time(todo.flops, run.devices),
        "scaling": plan.scaling,
        "lora": _lora(run.networks[0].sizes.linear),
        "notes": list(run.notes),
    }


def _bytes(estimate: MemoryEstimate) -> dict[str, int]:
    return {**estimate._asdict(), "states": estimate.states, "peak": estimate.peak}


def _lora(linear: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Parameters that LoRA of rank `RANK` would train: on query and value, on all matrices of the blocks."""
    adapted = {name: shape for name, shape in linear.items() if name.endswith(QUERY_VALUE)}
    every = {"all_linear": low_rank_parameters(linear, RANK)}
    return {"query_value": low_rank_parameters(adapted, RANK), **every} if adapted else every


def _heading(run: Run) -> list[str]:
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
        label = each.parallelism.label
        table.add_column(label, justify="right", style=style, header_style=style, no_wrap=True)
    for part in PARTS:
        row = [size(getattr(each.configured, part), 3) for each in columns]
        table.add_row(part.replace("kv_", "KV "), *row, end_section=part == PARTS[-2])
    if any(each.configured.host for each in columns):
        table.add_row("offloaded", *(size(each.configured.host, 3) for each in columns))
    table.add_row("checkpointed", *(size(each.checkpointed.peak, 3) for each in columns))
    return table


def _choice_lines(plan: RunPlan) -> list[str]:
    own, choice = plan.run.parallelism.name, plan.choice
    verdict = "fits" if plan.fits[own] else "does not fit"
    options = " with activation checkpointing" if choice.strategy and choice.checkpointing else ""
    options += "" if choice.gather_to_sample else " and gather_to_sample false"
    return [
        f"memory: {size(plan.memory)} ({plan.where}); {own} {verdict}",
        f"choice: {choice.strategy or 'nothing'}{options}: {choice.reason}",
    ]


def _work_lines(plan: RunPlan) -> Iterator[str]:
    """Tokens, steps, FLOPs and time."""
    todo, budget = plan.work, plan.budget
    rules = ", ".join(
        f"{rule} = {amount(tokens)}" for rule, tokens in rules_of_thumb(plan.parameters).items()
    )
    yield f"tokens by rules of thumb: {rules}"
    step = f"{amount(todo.step_tokens)} tokens a step at most"
    forward = f"{todo.forward_flops_per_token:.4g}"
    if todo.steps is None or todo.tokens is None:
        from_data = "the number of steps comes from the data: --read-data encodes it"
        yield f"{step}; {from_data}, or give --tokens or --trainer.max_steps"
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


def _scaling_lines(plan: RunPlan) -> Iterator[str]:
    """What the scaling law says of a pretraining run."""
    if (law := plan.scaling) is None:
        return
    yield "by L = E + A/N^α + B/D^β a model of this size is the best use of compute at:"
    for name, tokens in law["optimal_tokens"].items():
        line = f"  {name:<20}  {amount(tokens)} tokens"
        if law["optimum"]:
            best = law["optimum"][name]
            model = f"{amount(best['parameters'])} parameters on {amount(best['tokens'])} tokens"
            line += f"; for this run's compute {model}"
        yield line
    yield f"  {TWENTY_NOTE}"
