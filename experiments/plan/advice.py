"""What to run instead: the simplest strategy that fits, and the one change that would save most memory."""

from collections.abc import Sequence
from typing import NamedTuple

from experiments.plan.config import Run
from experiments.plan.estimate import candidates, estimate_memory
from experiments.plan.parallelism import Parallelism
from experiments.plan.strategies_memory import FSDP2, SIMPLEST_FIRST
from experiments.plan.units import size

WORTH = 0.95  # a change that leaves more than this share of the peak is none


class Choice(NamedTuple):
    """What to run."""

    strategy: str | None  # None = nothing fits
    checkpointing: bool
    reason: str
    gather_to_sample: bool = True  # false = networks sample block by block: whole they do not fit


class Change(NamedTuple):
    """A change to a run."""

    text: str  # what to give
    peak: int  # bytes of a rank with it


def choose(run: Run, memory: int) -> Choice:
    """The simplest strategy that fits a device's memory in bytes, with activation checkpointing only where it
    takes that, and last with networks that sample block by block."""
    peaks: dict[str, int] = {}
    for parallelism, checkpointing, whole in _simplest_first(run):
        peak = estimate_memory(run, parallelism, checkpointing).peak
        if peak <= memory:
            simpler = ", ".join(f"{name} {size(needed)}" for name, needed in peaks.items())
            comparison = f"what is simpler needs more: {simpler}" if simpler else "nothing is simpler"
            reason = f"{parallelism.name} needs {size(peak)} of {size(memory)}; {comparison}"
            return Choice(parallelism.name, checkpointing, reason, whole)
        peaks[_named(parallelism.name, checkpointing, whole)] = peak
    return Choice(None, True, _too_little(run, peaks, memory))


def _simplest_first(run: Run) -> Sequence[tuple[Parallelism, bool, bool]]:
    """What can be tried: a strategy, with activation checkpointing or without, with networks that are whole
    while they sample or not."""
    known = candidates(run)
    possible = [known[each.name] for each in SIMPLEST_FIRST if each.name in known]
    useful = [each for each in possible if run.devices > 1 or not each.sharded or each.splits_blocks]
    around_blocks = [each for each in useful if not each.splits_blocks]
    order = [(each, checkpointing, True) for checkpointing in (False, True) for each in around_blocks]
    order += [(each, True, True) for each in useful if each.splits_blocks]
    if run.sampling is not None:
        order += [(each.sampling_by_block, True, False) for each in useful if each.gathers]
    return order


def _named(name: str, checkpointing: bool, whole: bool) -> str:
    options = ["checkpointing"] * checkpointing + ["gather_to_sample false"] * (not whole)
    return f"{name} with {' and '.join(options)}" if options else name


def _too_little(run: Run, peaks: dict[str, int], memory: int) -> str:
    best = min(peaks, key=peaks.__getitem__)
    text = f"nothing fits {size(memory)}: the least is {best}, {size(peaks[best])}"
    whole, sharded = run.sampling is None, not run.averages
    for devices in (2**power for power in range(1, 17)):  # as many as the largest runs have
        wider = FSDP2(devices, gather_to_sample=whole)
        if sharded and devices > run.devices and estimate_memory(run, wider, True).peak <= memory:
            return f"{text}; {_named(wider.name, True, whole)} fits on {devices} devices"
    return f"{text}, and more devices do not help: lower micro_batch_size or the rows' length"


def changes(run: Run) -> list[Change]:
    """What could be changed, one at a time: the strategy, whole networks while they sample, activation
    checkpointing, the rows of a forward."""
    own = run.parallelism
    others = [each for each in candidates(run).values() if each != own] if run.devices > 1 else []
    if run.sampling and own.gather_to_sample and own.gathers:
        others.append(own.sampling_by_block)
    possible = [Change(each.option, estimate_memory(run, each).peak) for each in others]
    if run.checkpointing is False:
        peak = estimate_memory(run, own, True).peak
        possible.append(Change("--model.init_args.activation_checkpointing true", peak))
    if run.micro_batch_size > 1:
        smaller = run._replace(rows=max(1, run.rows // run.micro_batch_size), accumulates=True)
        option = f"--{'model' if run.sampling else 'data'}.init_args.micro_batch_size 1"
        possible.append(Change(option, estimate_memory(smaller, own).peak))
    return possible


def most_helpful(run: Run) -> Change | None:
    """The change with which a rank needs least; None where none is worth it."""
    best = min(changes(run), key=lambda change: change.peak, default=None)
    return best if best and best.peak < WORTH * estimate_memory(run, run.parallelism).peak else None
