"""Brings networks and strategies together: the bytes of a rank of a run under each strategy."""

from collections.abc import Sequence

from experiments.plan.activations import saved_activations
from experiments.plan.config import Network, Run
from experiments.plan.memory import (
    BytesPerParam,
    MemoryEstimate,
    Params,
    States,
    kv_cache_bytes,
    logits_bytes,
)
from experiments.plan.parallelism import Parallelism
from experiments.plan.strategies_memory import DDP, STRATEGIES
from modules.head import chunk_size
from modules.stage import SamplingSpec

SAMPLING_LOGITS = 3  # logits, their softmax and its running sum


def candidates(run: Run) -> dict[str, Parallelism]:
    """Every strategy over the run's devices that it can have, by name; its own as it is configured."""
    sizes = [network.sizes for network in run.networks]
    possible = [DDP] if run.averages else STRATEGIES.values()  # an average is of whole networks
    made = [strategy.over(run.devices, sizes) for strategy in possible]
    return {each.name: each for each in made if each} | {run.parallelism.name: run.parallelism}


def estimate_memory(run: Run, parallelism: Parallelism, checkpointing: bool | None = None) -> MemoryEstimate:
    """The bytes of a rank at its fullest, in an update or while it samples; with blocks computed again in the
    backward pass or not (`checkpointing`, None = as the run has it)."""
    params = params_of(run, parallelism, run.networks)
    states, host = _states(run, parallelism, params)
    again = bool(run.checkpointing if checkpointing is None else checkpointing)
    batch = run.rows, run.tokens, params.bytes_each.weights, "mixed" in run.precision
    activations = sum(
        saved_activations(each.config, *batch).in_all(each.sizes.layers, parallelism.activation_share, again)
        for each in run.networks
        if each.trained
    )
    logits = max(_logits(run, network, run.rows) for network in run.networks)
    is_half = not run.precision.startswith(("32", "64")) and run.sampling is None  # PPO's head is fp32
    moments = parallelism.moments(params, activations, logits, states.gradients, run.accumulates, is_half)
    estimate = MemoryEstimate(
        *states,
        activations=activations,
        logits=logits,
        buffers=max(0, max(moments) - activations - logits) + resting_bytes(run, parallelism),
        kv_cache=0,
        host=host,
    )
    return estimate if run.sampling is None else _with_sampling(run, run.sampling, parallelism, estimate)


def growth(run: Run, parallelism: Parallelism) -> int:
    """Bytes by which a rank grows from between two steps to the fullest moment of the next."""
    estimate = estimate_memory(run, parallelism)
    gradients = 0 if parallelism.frees_gradients else estimate.gradients
    return estimate.peak - estimate.weights - estimate.optimizer - gradients - resting_bytes(run, parallelism)


def resting_bytes(run: Run, parallelism: Parallelism) -> int:
    """Bytes of buffers that are there between two steps too."""
    own = sum(network.sizes.buffers for network in run.networks)
    return own + parallelism.buffers(params_of(run, parallelism, run.networks)).resting


def params_of(run: Run, parallelism: Parallelism, networks: Sequence[Network]) -> Params:
    """Of networks together, what tensor parallelism leaves of them on a rank."""
    sizes = [network.sizes for network in networks]
    trained = [network.sizes for network in networks if network.trained]
    elsewhere = [each.splittable - -(-each.splittable // parallelism.tensor) for each in sizes]
    return Params(
        parameters=sum(each.parameters for each in sizes) - sum(elsewhere),
        trained=sum(each.parameters for each in trained),
        block=max(each.block - part // each.layers for each, part in zip(sizes, elsewhere, strict=True)),
        outside=max(each.outside for each in sizes),
        head=max((each.head for each in trained), default=0),
        bytes_each=parallelism.bytes_per_param(run.precision, run.moments),
    )


def _with_sampling(
    run: Run, sampling: SamplingSpec, parallelism: Parallelism, estimate: MemoryEstimate
) -> MemoryEstimate:
    """Adds what sampling takes: the actor samples with its KV cache, then each network scores what it said;
    one network at a time is whole. The last update's gradients are gone, but for those in lasting buffers."""
    rows = min(sampling.rows, -(-run.step_rows // parallelism.data))
    params = [params_of(run, parallelism, [network]) for network in run.networks]
    gathered = [
        parallelism.whole_bytes(each) if parallelism.gather_to_sample else parallelism.buffers(each).gathered
        for each in params
    ]
    actor = run.networks[0].sizes
    kv_heads, width = -(-actor.kv_heads // parallelism.tensor), params[0].bytes_each.weights
    cache = kv_cache_bytes(actor.layers, kv_heads, actor.head_size, run.tokens, rows, width)
    generating = cache + SAMPLING_LOGITS * rows * actor.vocabulary * 4 + gathered[0]
    pairs = zip(run.networks, gathered, strict=True)
    scoring = [_logits(run, network, rows) + whole for network, whole in pairs]
    kept = parallelism.offload != "none" or parallelism.keeps_gradients
    return estimate._replace(
        kv_cache=cache,
        sampling=max(generating, *scoring) - cache + resting_bytes(run, parallelism),
        absent=0 if kept else estimate.gradients,
    )


def _states(run: Run, parallelism: Parallelism, params: Params) -> tuple[States, int]:
    """What is on the device, and the bytes of what is offloaded."""
    frozen = BytesPerParam(params.bytes_each.weights, 0, 0)
    of_networks = [
        parallelism.network_states(each.sizes, params.bytes_each if each.trained else frozen, run.accumulates)
        for each in run.networks
    ]
    states = States(*map(sum, zip(*of_networks, strict=True)))
    copy = sum(each.sizes.parameters * frozen.weights + each.sizes.buffers for each in run.networks)
    here = run.averages if run.on_cpu else run.averages_on_device
    away = 0
    if not run.on_cpu or parallelism.to_disk:  # else a CPU process's device is the machine's memory
        states, away = parallelism.offloaded(states, params.trained)
    states = states._replace(weights=states.weights + here * copy)
    return states, away + (run.averages - here) * copy


def _logits(run: Run, network: Network, rows: int) -> int:
    vocabulary = network.sizes.vocabulary if network.head == "language" else 0
    chunk = chunk_size(max(1, vocabulary), not run.on_cpu)
    # a GPU's kernels write fp32 beside the products' own logits; a CPU works in place
    return logits_bytes(rows * run.tokens, vocabulary, chunk) * (1 if run.on_cpu else 2)
