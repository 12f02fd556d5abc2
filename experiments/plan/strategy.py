"""Which of the plan's strategies a Trainer's `strategy` is, and over how many ranks it cuts what."""

import inspect
from collections.abc import Sequence
from math import gcd
from typing import Any, NamedTuple

import strategies
from modules.sizes import Sizes

MOST_TENSOR = 8  # ranks that exchange activations in every block: no more than one machine has


class Cut(NamedTuple):
    """A strategy and its degrees."""

    strategy: str
    """one of `strategies.memory.STRATEGIES`"""
    data: int
    """ranks with rows of their own"""
    tensor: int = 1
    """ranks that share rows and cut matrices"""
    checkpointing: bool = False
    """whether blocks are computed again in the backward pass"""


def cut_of(given: Any, ranks: int, networks: Sequence[Sizes], notes: list[str]) -> Cut:
    """The cut that a Trainer's `strategy` makes.

    Args:
        given: its name, or a mapping with `class_path` and `init_args`.
        ranks: of all machines.
        networks: that are cut.
        notes: what was assumed is added.
    """
    path, options = _path_and_options(given)
    name = path.rpartition(".")[2].lower().replace("strategy", "")
    checkpointing = bool(options.get("activation_checkpointing") or options.get("checkpointing"))
    if "tensor" in name:
        tensor = _degree(options.get("tensor_parallel_size") or options.get("tensor"), ranks, networks)
        return Cut("tensor_parallel", ranks // tensor, tensor, checkpointing)
    if name.startswith("modelparallel"):
        tensor = options.get("tensor_parallel_size", 1)
        tensor = tensor if isinstance(tensor, int) and tensor > 0 and ranks % tensor == 0 else 1
        return Cut("fsdp" if tensor == 1 else "tensor_parallel", ranks // tensor, tensor, checkpointing)
    if name.startswith("fsdp"):
        return Cut("fsdp", ranks, 1, checkpointing)
    if name.startswith(("deepspeed", "zero")):
        stage = options.get("stage") or next((digit for digit in name if digit in "123"), 2)
        return Cut(f"zero{stage}" if str(stage) in "123" else "ddp", ranks, 1, checkpointing)
    if not name.startswith(("ddp", "auto", "singledevice", "single_device")):
        notes.append(f"strategy {path} holds everything on every rank, as ddp does")
    return Cut("ddp", ranks, 1, checkpointing)


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


def _degree(given: Any, ranks: int, networks: Sequence[Sizes]) -> int:
    if isinstance(given, int) and given > 0 and ranks % given == 0:
        return given
    found = widest(ranks, networks)
    return found.tensor if found else 1


def _path_and_options(given: Any) -> tuple[str, dict[str, Any]]:
    """The name of a strategy and its arguments, defaults of our own factories filled in."""
    if isinstance(given, str):
        path, options = given, {}
    elif hasattr(given, "get") and given.get("class_path"):
        path, options = given["class_path"], dict(given.get("init_args") or {})
    else:
        path, options = type(given).__name__, {}
    make = getattr(strategies, path.removeprefix("strategies."), None) if "strategies." in path else None
    defaults = inspect.signature(make).parameters.items() if callable(make) else ()
    known = {name: each.default for name, each in defaults if each.default is not each.empty}
    return path, {**known, **options}
