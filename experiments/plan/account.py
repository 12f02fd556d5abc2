"""Brings networks and strategies together: the bytes of a rank under each strategy, and which to choose."""

import json
from collections.abc import Sequence
from functools import cache
from typing import Any, NamedTuple

import torch

from experiments.plan.activations import network_bytes, tensor_parallel_share
from experiments.plan.buffers import GATHERING, Options, Shape, gathered_bytes, moments, resting_bucket
from experiments.plan.config import Network, Rollout, Run
from experiments.plan.memory import (
    DEEPSPEED,
    STRATEGIES,
    Account,
    Layout,
    States,
    kv_cache_bytes,
    layout_of,
    logits_bytes,
    states_per_rank,
)
from experiments.plan.network_sizes import Saved, saved
from experiments.plan.strategy import Cut, widest
from experiments.plan.units import size
from modules.backbone import LOSS_CHUNK

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
    gather_to_sample: bool = True
    """false = networks sample block by block: whole they do not fit"""


def cuts(run: Run) -> dict[str, Cut]:
    """Every strategy with the degrees it would have on the run's devices; its own as it is configured."""
    found = {name: Cut(name, run.devices) for name in STRATEGIES if name != "tensor_parallel"}
    if tensor := widest(run.devices, [network.sizes for network in run.networks]):
        found["tensor_parallel"] = tensor
    found[run.cut.strategy] = run.cut
    return found


def account(run: Run, cut: Cut, checkpointing: bool | None = None) -> Account:
    """The bytes of a rank at its fullest: in an update, or while it samples.

    Args:
        run: the run.
        cut: under which strategy.
        checkpointing: whether blocks are computed again in the backward pass; None = as the run has it.
    """
    again = bool(run.checkpointing) if checkpointing is None else checkpointing
    layout = layout_of(run.precision, cut.strategy, run.moments)
    trained = [network for network in run.networks if network.trained]
    languages = [network.sizes for network in run.networks if network.head == "language"]
    states, host = _states(run, cut, layout)
    logits = [logits_bytes(run.rows * run.tokens, each.vocabulary, LOSS_CHUNK) for each in languages]
    found = Account(
        weights=states.weights,
        gradients=states.gradients,
        optimizer=states.optimizer,
        activations=sum(_activations(run, each, cut, layout.weights, again) for each in trained),
        logits=max(logits, default=0),
        buffers=0,
        kv_cache=0,
        host=host,
    )
    found = found._replace(buffers=_buffers(run, cut, layout, found) + resting(run, cut))
    return found if run.rollout is None else _with_rollout(run, run.rollout, cut, layout, found)


def _with_rollout(run: Run, rollout: Rollout, cut: Cut, layout: Layout, found: Account) -> Account:
    """Adds what sampling takes: the actor samples with its KV cache, then each network scores what it said;
    one network at a time is whole. The last update's gradients are gone, but for those in lasting buffers."""
    rows = min(rollout.rows, -(-rollout.prompts // cut.data))
    whole = [
        gathered_bytes(
            cut.strategy,
            cut.shards,
            _shape(run, cut, (network,)),
            layout,
            cut.options,
            cut.options.gather_to_sample,
        )
        for network in run.networks
    ]
    actor = run.networks[0].sizes
    kv_heads = -(-actor.kv_heads // cut.tensor)
    cache = kv_cache_bytes(actor.layers, kv_heads, actor.head_size, run.tokens, rows, layout.weights)
    fullest = [cache + ROLLOUT_LOGITS * rows * actor.vocabulary * 4 + whole[0]]
    for network, gathered in zip(run.networks, whole, strict=True):
        vocabulary = network.sizes.vocabulary if network.head == "language" else 0
        fullest.append(logits_bytes(rows * run.tokens, vocabulary, LOSS_CHUNK) + gathered)
    kept = (
        cut.options.offload != "none" or cut.strategy == "zero3" or (cut.strategy == "ddp" and cut.data > 1)
    )
    return found._replace(
        kv_cache=cache,
        sampling=max(fullest) - cache + resting(run, cut),
        absent=0 if kept else found.gradients,
    )


def _buffers(run: Run, cut: Cut, layout: Layout, found: Account) -> int:
    """What the fullest moment of a step takes beyond the states, activations and logits."""
    kept = run.accumulates or cut.strategy == "zero3" or (cut.strategy == "ddp" and cut.data > 1)
    fullest = max(
        moments(
            cut.strategy,
            cut.shards,
            _shape(run, cut, run.networks),
            layout,
            cut.options,
            found.activations,
            found.logits,
            absent=0 if kept else found.gradients,
            freed=found.gradients - found.gradients // cut.shards if cut.strategy == "zero1" and kept else 0,
            half=not run.precision.startswith(("32", "64")) and run.rollout is None,  # PPO's head is fp32
        )
    )
    return max(0, fullest - found.activations - found.logits)


def _shape(run: Run, cut: Cut, networks: Sequence[Network]) -> Shape:
    """Of networks together, what tensor parallelism leaves of them on a rank."""
    sizes = [network.sizes for network in networks]
    trained = [network.sizes for network in networks if network.trained]
    away = [each.cut - -(-each.cut // cut.tensor) for each in sizes]
    return Shape(
        parameters=sum(each.parameters for each in sizes) - sum(away),
        trained=sum(each.parameters for each in trained),
        block=max(each.block - part // each.layers for each, part in zip(sizes, away, strict=True)),
        outside=max(each.outside for each in sizes),
        head=max((each.head for each in trained), default=0),
    )


def resting(run: Run, cut: Cut) -> int:
    """Bytes of buffers that are there between two steps too."""
    layout = layout_of(run.precision, cut.strategy, run.moments)
    own = sum(network.sizes.buffers for network in run.networks)
    return own + resting_bucket(cut.strategy, _shape(run, cut, run.networks), layout, cut.options)


def choose(run: Run, memory: int) -> Choice:
    """The simplest strategy that fits, with activation checkpointing only where it takes that, and last with
    networks that sample block by block.

    Args:
        run: the run.
        memory: bytes of a device.
    """
    known = cuts(run)
    sharded = [name for name in ORDER if name in known and (run.devices > 1 or name == "ddp")]
    tried: dict[str, int] = {}
    rounds = [(sharded, False, True), (sharded, True, True), (["tensor_parallel"], True, True)]
    if run.rollout is not None:
        by_block = [name for name in (*sharded, "tensor_parallel") if name in GATHERING]
        rounds.append((by_block, True, False))
    for names, checkpointing, whole in rounds:
        for name in names:
            if name not in known:
                continue
            cut = known[name] if whole else known[name].sampling_by_block
            peak = account(run, cut, checkpointing).peak
            if peak <= memory:
                return Choice(name, checkpointing, _reason(name, peak, memory, tried), whole)
            tried[_tried(name, checkpointing, whole)] = peak
    return Choice(None, True, _too_little(run, tried, memory))


def _tried(name: str, checkpointing: bool, whole: bool) -> str:
    told = ["checkpointing"] * checkpointing + ["gather_to_sample false"] * (not whole)
    return f"{name} with {' and '.join(told)}" if told else name


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
    devices, whole = 2, run.rollout is None
    while devices <= MOST_DEVICES:
        cut = Cut("fsdp", devices, options=Options(gather_to_sample=whole))
        if account(run, cut, True).peak <= memory and devices > run.devices:
            return f"{text}; {_tried('fsdp', True, whole)} fits on {devices} devices"
        devices *= 2
    return f"{text}, and more devices do not help: lower micro_batch_size or the rows' length"


def fits(run: Run, memory: int) -> dict[str, bool]:
    """Strategy → whether a rank has room."""
    return {name: account(run, cut).peak <= memory for name, cut in cuts(run).items()}


def growth(run: Run, cut: Cut) -> int:
    """Bytes by which a rank grows from between two steps to the fullest moment of the next.

    Between two steps ZeRO-1 and 2 have no gradients; under the others the last step's are still there.
    """
    found = account(run, cut)
    gradients = 0 if cut.strategy in ("zero1", "zero2") else found.gradients
    return found.peak - found.weights - found.optimizer - gradients - resting(run, cut)


def _states(run: Run, cut: Cut, layout: Layout) -> tuple[States, int]:
    """What is on the device, and the bytes of what is offloaded."""
    found = [_network_states(run, network, cut, layout) for network in run.networks]
    states = States(*(sum(part) for part in zip(*found, strict=True)))
    offload = cut.options.offload
    if offload == "none" or (run.on_cpu and not cut.options.to_disk):
        return states, 0
    away = states if offload == "parameters" else states._replace(weights=0)
    on_device = States(*(whole - part for whole, part in zip(states, away, strict=True)))
    trained = sum(network.sizes.parameters for network in run.networks if network.trained)
    masters = -(-trained * 4 // cut.shards) if cut.strategy in DEEPSPEED else 0  # gradients in fp32
    return on_device, away.total + masters


def _network_states(run: Run, network: Network, cut: Cut, layout: Layout) -> States:
    sizes = network.sizes
    if not network.trained:
        layout = Layout(layout.weights, 0, 0)
    strategy = cut.strategy
    if strategy == "zero1" and not run.accumulates:
        strategy = "zero2"  # DeepSpeed reduces and frees gradients as they come, but where they accumulate
    split = sizes.cut if cut.tensor > 1 else 0
    states = states_per_rank(sizes.parameters, strategy, cut.shards, layout, cut.tensor, split)
    if strategy == "zero3" and cut.shards > 1:
        whole = sum(each for each in sizes.tensors if each <= cut.options.persistent) * layout.weights
        return states._replace(weights=states.weights + whole)
    return states


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
