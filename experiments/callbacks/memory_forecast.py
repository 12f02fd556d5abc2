"""What a fit will need, said before its first step; and when memory runs out all the same, the plan's table
and the one change that would help most."""

import sys
from contextlib import suppress
from textwrap import indent
from traceback import clear_frames
from typing import Any, NamedTuple

import torch

from experiments.cli.user_errors import UserError
from experiments.plan.advice import most_helpful
from experiments.plan.budget import machine_memory
from experiments.plan.config import Run, run_of
from experiments.plan.estimate import estimate_memory
from experiments.plan.run_plan import estimates_of, strategies_table
from experiments.plan.units import size

SIGNS = (
    "out of memory",  # of CUDA's allocator and driver, and of NCCL's `Cuda failure`
    "_STATUS_ALLOC_FAILED",  # CUBLAS and its sisters
    "Failed to CUDA calloc",  # NCCL
    "DefaultCPUAllocator",
    "bad allocation",
    "bad_alloc",
    "Cannot allocate memory",
)
"""what an error says that has no type of its own"""


class Forecast(NamedTuple):
    """The plan of the run that is about to begin, on this machine."""

    run: Run
    memory: int  # bytes a rank has
    where: str  # what that memory is

    def lines(self) -> list[str]:
        """What a rank needs and has; a warning where that will not do."""
        run = self.run
        estimate = estimate_memory(run, run.parallelism)
        most = f"{size(estimate.activations, 3)} activations"
        if estimate.rollout > estimate.update:
            most = f"{size(estimate.rollout, 3)} while it samples"
        host = f", {size(estimate.host, 3)} offloaded" if estimate.host else ""
        on_ranks = f" on {run.devices} ranks" if run.devices > 1 else ""
        line = (
            f"memory: a rank needs about {size(estimate.peak, 3)} ({size(estimate.states, 3)} states, "
            f"{most}{host}; {run.parallelism.name}{on_ranks}), it has {size(self.memory, 3)}: {self.where}"
        )
        fits = estimate.peak <= self.memory
        return [line] if fits else [line, f"this run will not fit: {self.advice()}"]

    def bytes(self) -> dict[str, int]:
        """What a rank needs, in all and of what, and has, in bytes."""
        estimate = estimate_memory(self.run, self.run.parallelism)
        parts = {"peak": estimate.peak, "states": estimate.states, "activations": estimate.activations}
        return {**{name: int(count) for name, count in parts.items()}, "memory": self.memory}

    def advice(self) -> str:
        """The one change that would help most."""
        change = most_helpful(self.run)
        if change is None:
            return "no single change helps much: lower the rows' length or take a smaller model"
        return f"what would help most is {change.text}, with which a rank needs about {size(change.peak, 3)}"

    def table(self) -> str:
        """The plan of a rank under every strategy, for stderr; its lines begin with a space."""
        from rich.console import Console

        console = Console(stderr=True, highlight=False)
        console.width -= 1
        with console.capture() as printed:
            console.print(strategies_table(self.run, self.memory, estimates_of(self.run)))
        return indent(printed.get(), " ").rstrip()


def forecast(config: Any, trainer: Any) -> Forecast | str:
    """The plan of a fit, by its parsed configuration and the trainer that is built, not yet running; or a
    line that says why there is none: a run never fails because it cannot be planned."""
    on_gpu = trainer.strategy.root_device.type == "cuda"
    try:
        run = run_of(config, trainer.world_size)._replace(on_cpu=not on_gpu)
        plan = Forecast(run, *machine_memory(trainer.num_devices, on_gpu))
    except Exception as error:
        return no_plan(error)
    return counted(plan) if trainer.is_global_zero else plan  # the others count when they run out


def counted(plan: Forecast) -> Forecast | str:
    """The plan, or a line that says why it cannot be counted."""
    try:
        plan.lines()
    except Exception as error:  # networks are anybody's: whatever they raise, the run may still work
        return no_plan(error)
    return plan


def no_plan(error: Exception) -> str:
    """Says why there is none."""
    return f"memory: no plan for this run: {(str(error).splitlines() or [type(error).__name__])[0]}"


def tell(plan: Forecast | str) -> None:
    """Prints what a rank needs and has; what will not do goes to stderr too, as a warning."""
    first, *warnings = [plan] if isinstance(plan, str) else plan.lines()
    print(first)
    for line in warnings:
        print(f"trivium: warning: {line}", file=sys.stderr)


def ran_out(error: BaseException | None) -> bool:
    """Whether memory is what an error, or one that it came from, is about: the GPU's or the machine's.

    Only torch's own allocators raise `torch.OutOfMemoryError`; a kernel that fails for want of memory, cuBLAS
    and NCCL raise other kinds of `RuntimeError`.
    """
    while error is not None:
        if isinstance(error, MemoryError | torch.OutOfMemoryError):
            return True
        if isinstance(error, RuntimeError | OSError) and any(sign in str(error) for sign in SIGNS):
            return True
        error = error.__cause__
    return False


def explained(plan: Forecast | str | None, trainer: Any, error: BaseException) -> BaseException:
    """The error that a run is told to have ended with: where a fit ran out of memory, a refusal that says
    where, with the plan's table and the remedy; else, and where no `plan` was asked for, the error itself."""
    if plan is None or not ran_out(error):
        return error
    clear_frames(error.__traceback__)  # what the step has held is free again: the plan needs memory too
    if isinstance(plan, Forecast):
        plan = counted(plan)
    rank = f"rank {trainer.global_rank} ran " if trainer.world_size > 1 else ""
    message = next((line.strip() for line in str(error).splitlines() if line.strip()), type(error).__name__)
    text = f"{rank}out of memory after {trainer.global_step} steps: {message[:200]}"
    if isinstance(plan, Forecast):
        with suppress(Exception):  # without memory anything may fail here, and must not hide what the run met
            text = f"{text}\n{plan.table()}\n{plan.advice()}"
    return UserError(text)
