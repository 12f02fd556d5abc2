"""The memory of each strategy, a class each.

To plan another one, write a class here and name it in `STRATEGIES` and `SIMPLEST_FIRST`: nothing else in the
planner asks for a strategy's name. Which buffers exist together was measured, on CPU processes over gloo
(`tests/test_memory_measured.py`)."""

import inspect
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from math import gcd
from typing import TYPE_CHECKING, Any, ClassVar, Self

import strategies
from experiments.plan.memory import Buffers, BytesPerParam, Params, States
from experiments.plan.parallelism import ALL_STATES, WIDTHS, Parallelism, known_precision

if TYPE_CHECKING:
    from experiments.plan.network_sizes import Sizes

MEGABYTE = 10**6
MOST_TENSOR = 8  # ranks that exchange activations in every block: no more than one machine has
GATHERED_WIDTHS = {"bf16": 2, "fp16": 2}  # bytes, by FSDP2's `parameters`


class DDP(Parallelism):
    """Everything on every rank; gradients are averaged in buckets that last."""

    name = factory = "ddp"

    @classmethod
    def of_trainer(cls, name: str, arguments: Mapping[str, Any], ranks: int) -> Self | None:
        return cls(ranks) if name.startswith(("ddp", "auto", "singledevice", "single_device")) else None

    @property
    def keeps_gradients(self) -> bool:
        return self.data > 1  # they are views of the reducer's buckets

    def buffers(self, params: Params) -> Buffers:
        # the reducer makes its buckets anew after the first step, and the old ones live until the second ends
        old = params.gradient_bytes if self.data > 1 else 0
        return Buffers(first_gradients=params.block_gradient_bytes, reduced=old)


@dataclass(frozen=True, kw_only=True)
class ZeRO(Parallelism):
    """DeepSpeed's three stages; the defaults are those of `strategies.deepspeed`."""

    factory = "deepspeed"
    offload_copy = 4  # the gradient in fp32
    stage: ClassVar[int]

    bucket: int = 200 * MEGABYTE  # bytes of gradients that are reduced together
    persistent: int = 100_000  # numbers up to which stage 3 leaves a parameter whole

    @classmethod
    def of_trainer(cls, name: str, arguments: Mapping[str, Any], ranks: int) -> Self | None:
        digit = next((int(letter) for letter in name if letter in "123"), 2)  # `deepspeed_stage_3_offload`
        if not name.startswith(("deepspeed", "zero")) or arguments.get("stage", digit) != cls.stage:
            return None
        by_name: Any = "parameters" if cls.stage == 3 else "optimizer"
        return cls(
            ranks,
            offload=arguments.get("offload") or (by_name if "offload" in name else "none"),
            to_disk=arguments.get("nvme_path") is not None,
            bucket=arguments.get("bucket_megabytes", cls.bucket // MEGABYTE) * MEGABYTE,
            persistent=arguments.get("persistent_elements", cls.persistent),
            gather_to_sample=bool(arguments.get("gather_to_sample", False)),  # Lightning's own never do
        )

    @classmethod
    def bytes_per_param(cls, precision: str, moments: int = 2) -> BytesPerParam:
        # the engine makes the model 16-bit where Lightning has autocast, and always keeps an fp32 copy of the
        # weights beside the model's own, under fp32 too
        known = known_precision(precision)
        width = 2 if known.endswith("mixed") else WIDTHS[known]
        return BytesPerParam(width, width, 4 + 4 * moments)

    @property
    def factory_arguments(self) -> dict[str, Any]:
        return {**self.arguments, "stage": self.stage}

    def buffers(self, params: Params) -> Buffers:
        gradients = params.gradient_bytes
        bucket = min(self.bucket, gradients)
        part = min(bucket, -(-gradients // self.shards))
        return Buffers(  # two buckets are filled in turn, and what goes to a rank is copied
            first_gradients=bucket,
            reducing=bucket + part,
            reduced=min(2 * bucket, gradients) + part,
            # the gradients of a rank's part in a row, and again in fp32
            step=-(-params.trained * (params.bytes_each.gradients + 4) // self.shards),
        )


class ZeRO1(ZeRO):
    """Splits optimizer states."""

    name, stage = "zero1", 1
    sharded = ("optimizer",)
    frees_gradients = True

    def network_states(self, sizes: "Sizes", bytes_each: BytesPerParam, accumulates: bool) -> States:
        # DeepSpeed reduces and frees gradients as they come, but where they accumulate
        return (self if accumulates else ZeRO2(self.data)).states(sizes.parameters, bytes_each)

    def freed_bytes(self, gradients: int) -> int:
        return gradients - gradients // self.shards


class ZeRO2(ZeRO):
    """Splits gradients too."""

    name, stage = "zero2", 2
    sharded = ("gradients", "optimizer")
    frees_gradients = True


class ZeRO3(ZeRO):
    """Splits parameters too; small ones stay whole on every rank."""

    name, stage = "zero3", 3
    sharded = ALL_STATES
    gathers = True

    @property
    def keeps_gradients(self) -> bool:
        return True

    def network_states(self, sizes: "Sizes", bytes_each: BytesPerParam, accumulates: bool) -> States:
        states = self.states(sizes.parameters, bytes_each)
        persistent = sum(count for count in sizes.tensors if count <= self.persistent)
        whole = persistent * bytes_each.weights if self.shards > 1 else 0
        return states._replace(weights=states.weights + whole)

    def buffers(self, params: Params) -> Buffers:
        buffers = super().buffers(params)
        bucket = buffers.first_gradients
        gathered = params.in_use * params.bytes_each.weights if self.shards > 1 else 0
        # it sends a bucket's copy from another one; its own is never freed
        return buffers._replace(gathered=gathered, reducing=2 * bucket, reduced=2 * bucket, resting=bucket)

    def whole_bytes(self, params: Params) -> int:
        # no buffer for what arrives: DeepSpeed's parts arrive in place
        return params.parameters * params.bytes_each.weights if self.shards > 1 else 0


@dataclass(frozen=True, kw_only=True)
class FSDP2(Parallelism):
    """Splits everything, block by block."""

    name = factory = "fsdp"
    sharded = ALL_STATES
    gathers = True

    replicas: int = 1  # groups of ranks that each hold all of what is sharded
    gathered_width: int | None = None  # bytes of a parameter that is brought together; None = as in its shard
    reshard: bool = True  # whether a block is freed between its forward and its backward pass

    @classmethod
    def of_trainer(cls, name: str, arguments: Mapping[str, Any], ranks: int) -> Self | None:
        if name.startswith("fsdp"):
            replicas = ranks // _divisor(arguments.get("shards"), ranks, ranks)
            return cls(ranks, replicas=replicas, **cls.memory_options(arguments))
        groups = _divisor(arguments.get("tensor_parallel_size"), ranks, 1)
        is_lightnings = name.startswith("modelparallel") and groups == 1
        return cls(ranks, gather_to_sample=False) if is_lightnings else None

    @staticmethod
    def memory_options(arguments: Mapping[str, Any]) -> dict[str, Any]:
        """What the arguments of `strategies.fsdp` and `strategies.tensor_parallel` say of memory."""
        return {
            "offload": "parameters" if arguments.get("cpu_offload") else "none",
            "gathered_width": GATHERED_WIDTHS.get(arguments.get("parameters", "")),
            "reshard": bool(arguments.get("reshard_after_forward", True)),
            "gather_to_sample": bool(arguments.get("gather_to_sample", False)),
        }

    @property
    def shards(self) -> int:
        return self.data // self.replicas

    def buffers(self, params: Params) -> Buffers:
        block = params.block_gradient_bytes
        if self.shards == 1:
            return Buffers(first_gradients=block)
        by_block = params.in_use * (self.gathered_width or params.bytes_each.weights)
        gathered = by_block if self.reshard else self.whole_bytes(params)
        # a block's gradients whole, and the parts that are sent
        return Buffers(gathered, first_gradients=block, reducing=2 * block, reduced=2 * block)

    def whole_bytes(self, params: Params) -> int:
        width = self.gathered_width or params.bytes_each.weights
        # all of them, and the buffer that a block's parts arrive in
        return (params.parameters + params.block) * width if self.shards > 1 else 0


@dataclass(frozen=True, kw_only=True)
class TensorParallel(FSDP2):
    """Splits every block's matrices within a group of ranks; the groups share the rest as under FSDP2."""

    name = factory = "tensor_parallel"
    splits_blocks = True

    @classmethod
    def over(cls, ranks: int, networks: Sequence["Sizes"]) -> Self | None:
        """With the most tensor parallelism that the heads allow; None where a network has no plan for it, or
        its heads divide by no factor of the ranks."""
        if not all(network.splittable for network in networks):
            return None
        common = gcd(ranks, *(heads for network in networks for heads in (network.heads, network.kv_heads)))
        tensor = next(size for size in range(min(common, MOST_TENSOR), 0, -1) if common % size == 0)
        return None if tensor == 1 and ranks > 1 else cls(ranks // tensor, tensor)

    @classmethod
    def of_trainer(cls, name: str, arguments: Mapping[str, Any], ranks: int) -> Self | None:
        if "tensor" in name:
            groups = _divisor(arguments.get("data_parallel"), ranks, 1)
            tensor = _divisor(arguments.get("tensor_parallel"), ranks, ranks // groups)
            has_fsdp = tensor < ranks or tensor == 1  # a single group has none of FSDP2's options
            return cls(ranks // tensor, tensor, **(cls.memory_options(arguments) if has_fsdp else {}))
        tensor = _divisor(arguments.get("tensor_parallel_size"), ranks, 1)
        if name.startswith("modelparallel") and tensor > 1:
            return cls(ranks // tensor, tensor, gather_to_sample=False)
        return None

    @property
    def factory_arguments(self) -> dict[str, Any]:
        if self.arguments or self.data == 1 or self.tensor == 1:
            return dict(self.arguments)
        return {"tensor_parallel": self.tensor}

    @property
    def activation_share(self) -> float:
        """Korthikanti et al. 2022, "Reducing Activation Recomputation in Large Transformer Models", §4.2: of
        s·b·h·34 bytes of a block without score matrix, t ranks keep s·b·h·(10 + 24/t): attention and MLP are
        divided, the two norms, their dropouts and the inputs of both are not."""
        return (10 + 24 / self.tensor) / 34


STRATEGIES: dict[str, type[Parallelism]] = {
    strategy.name: strategy for strategy in (DDP, ZeRO1, ZeRO2, ZeRO3, FSDP2, TensorParallel)
}
SIMPLEST_FIRST: tuple[type[Parallelism], ...] = (DDP, ZeRO1, ZeRO2, FSDP2, ZeRO3, TensorParallel)
"""from the simplest to the one that talks most between ranks"""


def parallelism_of(given: Any, ranks: int, notes: list[str]) -> Parallelism:
    """How a Trainer's `strategy` spreads a run.

    Args:
        given: its name, or a mapping with `class_path` and `init_args`.
        ranks: over all machines.
        notes: what was assumed is added.
    """
    if isinstance(given, Mapping) and "class_path" in given:
        path, arguments = given["class_path"], given.get("init_args") or {}
    else:
        path, arguments = given if isinstance(given, str) else type(given).__name__, {}
    factory = path.removeprefix("strategies.")
    is_ours = factory != path and factory in strategies.__all__
    defaults = defaults_of(getattr(strategies, factory)) if is_ours else {}
    changed = {key: value for key, value in arguments.items() if key in defaults and value != defaults[key]}
    name = path.rpartition(".")[2].lower().replace("strategy", "")
    for strategy in STRATEGIES.values():
        if parallelism := strategy.of_trainer(name, {**defaults, **arguments}, ranks):
            return replace(parallelism, arguments=changed)
    notes.append(f"strategy {path} holds everything on every rank, as ddp does")
    return DDP(ranks)


def defaults_of(function: Any) -> dict[str, Any]:
    """The defaults of a function's arguments, or of a class's."""
    parameters = inspect.signature(function).parameters.items()
    return {name: each.default for name, each in parameters if each.default is not each.empty}


def _divisor(given: Any, ranks: int, otherwise: int) -> int:
    return given if isinstance(given, int) and given > 0 and ranks % given == 0 else otherwise
