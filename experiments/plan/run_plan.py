"""The plan of a run: its memory under every strategy, its work, what to choose; and that as JSON."""

from typing import Any, NamedTuple

from experiments.plan.advice import Choice, choose
from experiments.plan.budget import Budget, machine_memory
from experiments.plan.compute import optima
from experiments.plan.config import Run
from experiments.plan.estimate import candidates, estimate_memory, growth
from experiments.plan.memory import MemoryEstimate
from experiments.plan.parallelism import Parallelism
from experiments.plan.scaling import (
    FITS,
    TOKENS_PER_PARAMETER,
    loss,
    low_rank_parameters,
    optimal_tokens,
    tokens_for,
)
from experiments.plan.work import DataLengths, Work, work

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

    @property
    def fits(self) -> dict[str, bool]:
        """Strategy → whether a rank has room."""
        return {name: each.configured.peak <= self.memory for name, each in self.estimates.items()}

    @property
    def rules_of_thumb(self) -> dict[str, int]:
        """Tokens for a network of this size, by rule."""
        size = self.run.networks[0].sizes.parameters
        return {rule: tokens_for(size, rule) for rule in TOKENS_PER_PARAMETER}

    @property
    def scaling(self) -> dict[str, Any] | None:
        """What the parametric law says of pretraining: the tokens this size is the optimum for, the loss it
        predicts for the run, and the optimum for the run's compute."""
        if self.run.stage != "pretrain":
            return None
        parameters, tokens = self.run.networks[0].sizes.parameters, self.work.tokens
        return {
            "optimal_tokens": {name: optimal_tokens(fit, parameters) for name, fit in FITS.items()},
            "loss": {name: loss(fit, parameters, tokens) for name, fit in FITS.items()} if tokens else None,
            "optimum": optima(self.work.flops_6nd) if self.work.flops_6nd else None,
        }


def estimates_of(run: Run) -> dict[str, Estimates]:
    """What a rank needs under every strategy."""
    return {
        name: Estimates(each, estimate_memory(run, each), estimate_memory(run, each, True))
        for name, each in candidates(run).items()
    }


def run_plan(run: Run, budget: Budget, lengths: DataLengths | None = None) -> RunPlan:
    """The plan of a run within a budget, and by what the data says, where it was read."""
    memory, where = (budget.memory, "given") if budget.memory else machine_memory(run.local)
    todo = work(run, budget.tokens, lengths)
    return RunPlan(run, budget, todo, memory, where, estimates_of(run), choose(run, memory))


def as_json(plan: RunPlan) -> dict[str, Any]:
    """The plan for programs."""
    run, todo = plan.run, plan.work
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
            for name, each in plan.estimates.items()
        },
        "with_checkpointing": {name: _bytes(each.checkpointed) for name, each in plan.estimates.items()},
        "degrees": {
            name: {"data": each.parallelism.data, "tensor": each.parallelism.tensor}
            for name, each in plan.estimates.items()
        },
        "memory": plan.memory,
        "fits": plan.fits,
        "choice": plan.choice._asdict(),
        "tokens": {"step": todo.step_tokens, "run": todo.tokens, **plan.rules_of_thumb},
        "steps": todo.steps,
        "flops": {
            "forward_per_token": todo.forward_flops_per_token,
            "run": todo.flops,
            "run_6nd": todo.flops_6nd,
        },
        "seconds": plan.budget.time(todo.flops, run.devices),
        "scaling": plan.scaling,
        "lora": lora(run.networks[0].sizes.linear),
        "notes": list(run.notes),
    }


def _bytes(estimate: MemoryEstimate) -> dict[str, int]:
    return {**estimate._asdict(), "states": estimate.states, "peak": estimate.peak}


def lora(linear: dict[str, tuple[int, int]]) -> dict[str, int]:
    """Parameters that LoRA of rank `RANK` would train: on query and value, on all matrices of the blocks."""
    adapted = {name: shape for name, shape in linear.items() if name.endswith(QUERY_VALUE)}
    every = {"all_linear": low_rank_parameters(linear, RANK)}
    return {"query_value": low_rank_parameters(adapted, RANK), **every} if adapted else every
