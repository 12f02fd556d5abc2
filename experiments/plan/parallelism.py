"""How a run is spread over its ranks, and what a rank must hold then: the questions that a strategy answers.

The answers here are those of one that holds everything on every rank; each strategy that there is has a class
of its own in `strategies_memory`."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import KW_ONLY, dataclass, field, replace
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self

from experiments.cli.user_errors import UserError
from experiments.plan.memory import BYTES_PER_PARAM, Buffers, BytesPerParam, Moments, Params, States

if TYPE_CHECKING:
    from experiments.plan.network_sizes import Sizes

WIDTHS = {"64-true": 8, "32-true": 4, "bf16-mixed": 4, "16-mixed": 4, "bf16-true": 2, "16-true": 2}
"""Lightning's precision → bytes of a weight; under autocast the weights stay fp32"""
SHORT = {"64": "64-true", "32": "32-true", "bf16": "bf16-mixed", "16": "16-mixed"}
ALL_STATES = BytesPerParam._fields


@dataclass(frozen=True)
class Parallelism:
    """A strategy over so many ranks."""

    name: ClassVar[str]
    factory: ClassVar[str]  # the function of `strategies` that makes it
    sharded: ClassVar[tuple[str, ...]] = ()  # states that are split over the data-parallel ranks
    gathers: ClassVar[bool] = False  # whether parameters are split and brought together to compute
    splits_blocks: ClassVar[bool] = False  # whether ranks exchange activations within every block
    frees_gradients: ClassVar[bool] = False  # whether a step's are gone after it, not when the next begins
    offload_copy: ClassVar[int] = 0  # bytes of a trained parameter beside its offloaded states

    data: int  # ranks with rows of their own
    tensor: int = 1  # ranks that share rows and cut matrices
    _: KW_ONLY
    offload: Literal["none", "optimizer", "parameters"] = "none"  # the optimizer's with gradients, or all
    to_disk: bool = False  # whether that goes to a disk instead of the machine's memory
    gather_to_sample: bool = True  # whether a network whose parameters are split is whole while it samples
    arguments: Mapping[str, Any] = field(default_factory=dict, compare=False)  # not the factory's defaults

    @classmethod
    def over(cls, ranks: int, networks: Sequence["Sizes"]) -> Self | None:
        """As its defaults make it over all ranks; None where the networks do not allow it."""
        return cls(ranks)

    @classmethod
    def of_trainer(cls, name: str, arguments: Mapping[str, Any], ranks: int) -> Self | None:
        """What a Trainer's strategy is, by its class's or registered name in small letters (without
        `strategy`) and by its arguments with our own factories' defaults; None where it is another."""
        raise NotImplementedError

    @property
    def label(self) -> str:
        """Its name in a table's narrow column."""
        return f"tensor {self.data}×{self.tensor}" if self.splits_blocks else self.name

    @property
    def option(self) -> str:
        """The option of `trivium fit` that chooses it."""
        path, arguments = f"strategies.{self.factory}", self.factory_arguments
        form = json.dumps({"class_path": path, "init_args": arguments})
        return f"--trainer.strategy '{form}'" if arguments else f"--trainer.strategy {path}"

    @property
    def factory_arguments(self) -> dict[str, Any]:
        """What the factory is told beyond its defaults."""
        return dict(self.arguments)

    @property
    def sampling_by_block(self) -> Self:
        """The same without whole networks while they sample."""
        arguments = {**self.arguments, "gather_to_sample": False}
        return replace(self, gather_to_sample=False, arguments=arguments)

    @property
    def shards(self) -> int:
        """N, ranks over which what is sharded is split."""
        return self.data

    @classmethod
    def bytes_per_param(cls, precision: str, moments: int = 2) -> BytesPerParam:
        """Bytes of a trained parameter in Lightning's `precision`, such as `bf16-mixed`, of which an
        optimizer keeps so many moments; Adam 2.

        Raises:
            UserError: a precision that is not known.
        """
        width = WIDTHS[known_precision(precision)]
        return BytesPerParam(width, width, width * moments)

    def states(
        self, parameters: int, bytes_each: BytesPerParam = BYTES_PER_PARAM["mixed"], split: int = 0
    ) -> States:
        """The states of Ψ parameters on the rank that holds most of them.

        Rajbhandari et al. 2020, "ZeRO", §5: with 2 + 2 + 12 bytes a parameter, stage 1 holds (4 + 12/N)Ψ,
        stage 2 (2 + 14/N)Ψ, stage 3 (and FSDP) 16Ψ/N. What tensor parallelism leaves is sharded over N.

        Args:
            parameters: Ψ.
            bytes_each: bytes a parameter.
            split: those of them that tensor parallelism splits; every rank of a group holds the others.
        """
        mine = parameters - split + -(-split // self.tensor)
        shards = [self.shards if part in self.sharded else 1 for part in ALL_STATES]
        return States(*(-(-mine * width // n) for width, n in zip(bytes_each, shards, strict=True)))

    def network_states(self, sizes: "Sizes", bytes_each: BytesPerParam, accumulates: bool) -> States:
        """The states of a network whose tensors are known, where steps have several micro-batches or one."""
        return self.states(sizes.parameters, bytes_each, sizes.splittable if self.tensor > 1 else 0)

    def offloaded(self, states: States, trained: int) -> tuple[States, int]:
        """The states that stay on the device, and the bytes of those that are offloaded."""
        if self.offload == "none":
            return states, 0
        stays = States(0 if self.offload == "parameters" else states.weights, 0, 0)
        return stays, states.total - stays.total + -(-trained * self.offload_copy // self.shards)

    @property
    def keeps_gradients(self) -> bool:
        """Whether gradients lie in buffers that are never freed, neither in a step nor while PPO samples."""
        return False

    @property
    def activation_share(self) -> float:
        """The share of a block's activations that a rank keeps."""
        return 1.0

    def buffers(self, params: Params) -> Buffers:
        """What a step brings together, has on its way and copies."""
        return Buffers(first_gradients=params.block_gradient_bytes)

    def whole_bytes(self, params: Params) -> int:
        """Parameters that are brought together so that networks are whole, as while one samples."""
        return 0

    def freed_bytes(self, gradients: int) -> int:
        """Of gradients that were accumulated, those that are gone again when the last are reduced."""
        return 0

    def moments(
        self,
        params: Params,
        activations: int,
        logits: int,
        gradients: int = 0,
        accumulates: bool = False,
        half: bool = False,
    ) -> Moments:
        """Bytes beyond the states at each moment of a step.

        Args:
            params: that are computed with.
            activations: bytes that wait for the backward pass.
            logits: bytes of those that exist together.
            gradients: bytes among the states.
            accumulates: whether a step has several micro-batches, whose gradients wait for the next ones'.
            half: whether products are computed in 16 bits.
        """
        waits = accumulates or self.keeps_gradients  # else the states' are not there when a pass begins
        absent, freed = (0, self.freed_bytes(gradients)) if waits else (gradients, 0)
        buffers, every = self.buffers(params), params.gradient_bytes
        head_forward, head_backward = params.head_bytes(half)
        left = 1 - buffers.first_gradients / every if every else 1.0  # of the activations
        return Moments(
            forward=activations + logits + head_forward + buffers.gathered,
            backward=activations + logits + head_backward + buffers.gathered - absent,
            reducing=round(left * (activations - absent)) + buffers.gathered + buffers.reducing,
            reduced=buffers.gathered + buffers.reduced - freed,
            step=buffers.step,
        )


def known_precision(precision: str) -> str:
    """Lightning's full name of a precision.

    Raises:
        UserError: it has none of that name.
    """
    name = SHORT.get(precision, precision)
    if name not in WIDTHS:
        raise UserError(f"trainer.precision is {precision}: the plan knows {', '.join(WIDTHS)}")
    return name
