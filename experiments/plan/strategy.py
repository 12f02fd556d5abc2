"""Which of the plan's strategies a Trainer's `strategy` is, and over how many ranks it cuts what."""

import inspect
from collections.abc import Mapping, Sequence
from math import gcd
from types import MappingProxyType
from typing import Any, NamedTuple

import strategies
from experiments.plan.buffers import Options
from experiments.plan.network_sizes import Sizes

MOST_TENSOR = 8  # ranks that exchange activations in every block: no more than one machine has
MEGABYTE = 10**6
WIDTHS = {"bf16": 2, "fp16": 2}


class Cut(NamedTuple):
    """A strategy and its degrees."""

    strategy: str
    """one of `experiments.plan.memory.STRATEGIES`"""
    data: int
    """ranks with rows of their own"""
    tensor: int = 1
    """ranks that share rows and cut matrices"""
    replicas: int = 1
    """groups of ranks that each hold all of what is sharded, where FSDP2 does not shard over every rank"""
    options: Options = Options()
    """what it is told that changes memory"""
    given: Mapping[str, Any] = MappingProxyType({})
    """its arguments that are not the defaults, where it is one of our own"""

    @property
    def shards(self) -> int:
        """Ranks over which what is sharded is cut."""
        return self.data // self.replicas

    @property
    def sampling_by_block(self) -> "Cut":
        """The same without whole networks while they sample."""
        return self._replace(
            options=self.options._replace(gather_to_sample=False),
            given={**self.given, "gather_to_sample": False},
        )


def cut_of(given: Any, ranks: int, networks: Sequence[Sizes], notes: list[str]) -> Cut:
    """The cut that a Trainer's `strategy` makes.

    Args:
        given: its name, or a mapping with `class_path` and `init_args`.
        ranks: of all machines.
        networks: that are cut.
        notes: what was assumed is added.
    """
    path, options, changed = _path_and_options(given)
    name = path.rpartition(".")[2].lower().replace("strategy", "")
    if "tensor" in name:
        tensor = _degree(options, ranks)
        data = ranks // tensor
        told = _fsdp_options(options) if data > 1 or tensor == 1 else Options()  # else there is no FSDP2
        return Cut("tensor_parallel", data, tensor, options=told, given=changed)
    if name.startswith("modelparallel"):
        tensor = _divisor(options.get("tensor_parallel_size"), ranks, 1)
        told = Options(gather_to_sample=False)
        return Cut("fsdp" if tensor == 1 else "tensor_parallel", ranks // tensor, tensor, options=told)
    if name.startswith("fsdp"):
        replicas = ranks // _divisor(options.get("shards"), ranks, ranks)
        return Cut("fsdp", ranks, 1, replicas, _fsdp_options(options), changed)
    if name.startswith(("deepspeed", "zero")):
        stage = options.get("stage") or next((digit for digit in name if digit in "123"), 2)
        strategy = f"zero{stage}" if str(stage) in "123" else "ddp"
        return Cut(strategy, ranks, options=_zero_options(name, options), given=changed)
    if not name.startswith(("ddp", "auto", "singledevice", "single_device")):
        notes.append(f"strategy {path} holds everything on every rank, as ddp does")
    return Cut("ddp", ranks)


def _fsdp_options(given: dict[str, Any]) -> Options:
    """Those of `strategies.fsdp` and `strategies.tensor_parallel`; Lightning's own never hold a network whole
    to sample."""
    return Options(
        offload="parameters" if given.get("cpu_offload") else "none",
        gathered_width=WIDTHS.get(given.get("parameters", "")),
        reshard=bool(given.get("reshard_after_forward", True)),
        gather_to_sample=bool(given.get("gather_to_sample", False)),
    )


def _zero_options(name: str, given: dict[str, Any]) -> Options:
    """Those of `strategies.deepspeed`; of Lightning's own names, `deepspeed_stage_3_offload` and the like."""
    default = Options()
    offload: Any = given.get("offload")
    if offload is None:
        offload = ("parameters" if "3" in name else "optimizer") if "offload" in name else "none"
    return Options(
        offload=offload,
        to_disk=given.get("nvme_path") is not None,
        bucket=given.get("bucket_megabytes", default.bucket // MEGABYTE) * MEGABYTE,
        persistent=given.get("persistent_elements", default.persistent),
        gather_to_sample=bool(given.get("gather_to_sample", False)),
    )


def widest(ranks: int, networks: Sequence[Sizes]) -> Cut | None:
    """The two-dimensional cut with the most tensor parallelism that heads allow; None where a network has no
    plan for it, or its heads divide by no factor of the ranks."""
    if not all(network.cut for network in networks):
        return None
    tensor = ranks
    for network in networks:
        tensor = gcd(tensor, network.heads, network.kv_heads)
    tensor = next(size for size in range(min(tensor, MOST_TENSOR), 0, -1) if tensor % size == 0)
    return None if tensor == 1 and ranks > 1 else Cut("tensor_parallel", ranks // tensor, tensor)


def _degree(options: dict[str, Any], ranks: int) -> int:
    """Ranks that share a block: those given, else what data parallelism leaves, else all."""
    data = _divisor(options.get("data_parallel"), ranks, 1)
    return _divisor(options.get("tensor_parallel"), ranks, ranks // data)


def _divisor(given: Any, ranks: int, otherwise: int) -> int:
    return given if isinstance(given, int) and given > 0 and ranks % given == 0 else otherwise


def _path_and_options(given: Any) -> tuple[str, dict[str, Any], dict[str, Any]]:
    """The name of a strategy, its arguments with the defaults of our own factories filled in, and those of
    our own factories that are not the default."""
    if isinstance(given, str):
        path, options = given, {}
    elif hasattr(given, "get") and given.get("class_path"):
        path, options = given["class_path"], dict(given.get("init_args") or {})
    else:
        path, options = type(given).__name__, {}
    make = getattr(strategies, path.removeprefix("strategies."), None) if "strategies." in path else None
    defaults = inspect.signature(make).parameters.items() if callable(make) else ()
    known = {name: each.default for name, each in defaults if each.default is not each.empty}
    changed = {name: value for name, value in options.items() if name in known and value != known[name]}
    return path, {**known, **options}, changed
