"""Brings networks and strategies together: the bytes of a rank under each strategy, and which to choose."""

import json
from functools import cache
from typing import Any, NamedTuple

import torch

from experiments.plan.config import Network, Run
from experiments.plan.strategy import Cut, widest
from experiments.plan.words import size
from modules.backbone import LOSS_CHUNK
from modules.sizes import Saved, saved
from strategies.activations import network_bytes, tensor_parallel_share
from strategies.memory import (
    STRATEGIES,
    Account,
    Layout,
    States,
    kv_cache_bytes,
    layout_of,
    logits_bytes,
    shard_buffers,
    states_per_rank,
    step_growth,
)

ORDER = ("ddp", "zero1", "zero2", "fsdp", "zero3")
"""from the simplest to the one that talks most between ranks; tensor parallelism comes after all of them"""
WIDTHS = {2: torch.bfloat16, 4: torch.float32, 8: torch.float64}
MOST_DEVICES = 65536
ROLLOUT_LOGITS = 3  # logits, their softmax and its running sum


class Choice(NamedTuple):
    """What to run."""

    strategy: str | None
    """None = nothing fits"""
    checkpointing: bool
    reason: str


def cuts(run: Run) -> dict[str, Cut]:
    """Every strategy with the degrees it would have on the run's devices; its own as it is configured."""
    found = {name: Cut(name, run.devices) for name in STRATEGIES if name != "tensor_parallel"}
    if tensor := widest(run.devices, [network.sizes for network in run.networks]):
        found["tensor_parallel"] = tensor
    found[run.cut.strategy] = run.cut
    return found


def account(run: Run, cut: Cut, checkpointing: bool = False) -> Account:
    """The bytes of a rank at its fullest.

    Args:
        run: the run.
        cut: under which strategy.
        checkpointing: whether blocks are computed again in the backward pass.
    """
    layout = layout_of(run.precision, cut.strategy, run.moments)
    trained = [network for network in run.networks if network.trained]
    frozen = [network for network in run.networks if not network.trained]
    states = _states(trained, cut, layout)
    kept = _states(frozen, cut, Layout(layout.weights, 0, 0))
    all_sizes = [network.sizes for network in run.networks]
    gathered = shard_buffers(
        cut.strategy,
        cut.data,
        sum(each.parameters for each in all_sizes),
        max(each.block for each in all_sizes),
        max(each.outside for each in all_sizes),
        layout,
    )
    languages = [network.sizes for network in run.networks if network.head == "language"]
    logits = [logits_bytes(run.rows * run.tokens, each.vocabulary, LOSS_CHUNK) for each in languages]
    cache_bytes = 0
    if run.rollout is not None:
        actor = run.networks[0].sizes
        rows = min(run.rollout.rows, -(-run.rollout.prompts // cut.data))
        kv_heads = -(-actor.kv_heads // cut.tensor)
        cache_bytes = kv_cache_bytes(
            actor.layers, kv_heads, actor.head_size, run.tokens, rows, layout.weights
        )
        logits.append(ROLLOUT_LOGITS * rows * actor.vocabulary * 4)
    return Account(
        weights=states.weights + kept.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        activations=sum(_activations(run, each, cut, layout.weights, checkpointing) for each in trained),
        logits=max(logits, default=0),
        buffers=gathered + sum(each.buffers for each in all_sizes),
        kv_cache=cache_bytes,
    )


def choose(run: Run, memory: int) -> Choice:
    """The simplest strategy that fits, with activation checkpointing only where it takes that.

    Args:
        run: the run.
        memory: bytes of a device.
    """
    known = cuts(run)
    sharded = [name for name in ORDER if name in known and (run.devices > 1 or name == "ddp")]
    tried: dict[str, int] = {}
    for names, checkpointing in ((sharded, False), (sharded, True), (["tensor_parallel"], True)):
        for name in names:
            if name not in known:
                continue
            peak = account(run, known[name], checkpointing).peak
            if peak <= memory:
                return Choice(name, checkpointing, _reason(name, peak, memory, tried))
            tried[f"{name} with checkpointing" if checkpointing else name] = peak
    return Choice(None, True, _too_little(run, tried, memory))


def _reason(name: str, peak: int, memory: int, tried: dict[str, int]) -> str:
    simpler = [f"{other} {size(needed)}" for other, needed in tried.items()]
    text = f"{name} needs {size(peak)} of {size(memory)}"
    return (
        f"{text}; what is simpler needs more: {', '.join(simpler)}"
        if simpler
        else f"{text}; nothing is simpler"
    )


def _too_little(run: Run, peaks: dict[str, int], memory: int) -> str:
    best = min(peaks, key=peaks.__getitem__)
    text = f"nothing fits {size(memory)}: the least is {best}, {size(peaks[best])}"
    devices = 2
    while devices <= MOST_DEVICES:
        if account(run, Cut("fsdp", devices), True).peak <= memory and devices > run.devices:
            return f"{text}; fsdp with checkpointing fits on {devices} devices"
        devices *= 2
    return f"{text}, and more devices do not help: lower micro_batch_size or the rows' length"


def fits(run: Run, memory: int) -> dict[str, bool]:
    """Strategy → whether a rank has room, without activation checkpointing."""
    return {name: account(run, cut).peak <= memory for name, cut in cuts(run).items()}


def growth(run: Run, cut: Cut) -> int:
    """Bytes by which a rank grows over a step; see `strategies.memory.step_growth`."""
    width = layout_of(run.precision, cut.strategy, run.moments).gradients
    trained = [network.sizes for network in run.networks if network.trained]
    first = max(each.outside + each.block for each in trained) * width
    return step_growth(account(run, cut), first, kept=run.accumulates or run.devices > 1)


def _states(networks: list[Network], cut: Cut, layout: Layout) -> States:
    parameters = sum(network.sizes.parameters for network in networks)
    split = sum(network.sizes.cut for network in networks) if cut.tensor > 1 else 0
    return states_per_rank(parameters, cut.strategy, cut.data, layout, cut.tensor, split)


def _activations(run: Run, network: Network, cut: Cut, width: int, checkpointing: bool) -> int:
    autocast = torch.bfloat16 if "mixed" in run.precision and width > 2 else None
    kind: Any = type(network.config)
    text = network.config.to_json_string()
    found = _kept(kind, text, run.rows, run.tokens, WIDTHS[width], autocast, run.packed)
    share = tensor_parallel_share(cut.tensor)
    return network_bytes(
        network.sizes.layers, found.block * share, found.outside, found.block_input, checkpointing
    )


@cache
def _kept(kind: Any, text: str, *batch: Any) -> Saved:
    """What a network keeps, counted once for all strategies."""
    return saved(kind.from_dict(json.loads(text)), *batch)
