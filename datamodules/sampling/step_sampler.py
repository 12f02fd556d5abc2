"""The step sampler: which rows each optimizer step trains on, as a pure function of (seed, step).

Every rank computes the same steps and takes its share, so the order depends neither on ranks nor on workers,
every micro-batch knows the normalizer of its whole step, and the position in the data is one integer.
"""

from typing import Any, Protocol

import numpy as np
from lightning.pytorch.callbacks import GradientAccumulationScheduler

from datamodules.sampling.orders import Memoized, RowOrder


class PerRow(Protocol):
    """A number for each row id, an array or something that finds it out when asked."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


class StepSampler:
    """Cuts an order into optimizer steps, and a step into micro-batches for ranks.

    Args:
        order: the rows.
        lengths: (rows,) tokens of each row; a step's rows are sorted by it, so that a micro-batch pads
            little.
        weights: (rows,) what each row adds to the normalizer: target tokens, or 1 for a prompt with a ranked
            pair.
        rank: this one of the `world_size` data-parallel ranks.
    """

    def __init__(
        self,
        order: RowOrder,
        lengths: PerRow,
        weights: PerRow,
        global_batch_size: int,
        micro_batch_size: int,
        world_size: int = 1,
        rank: int = 0,
    ):
        self.order, self.lengths, self.weights = order, lengths, weights
        self.global_batch_size, self.micro_batch_size = global_batch_size, micro_batch_size
        self.world_size, self.rank = world_size, rank
        self.accumulate = global_batch_size // (micro_batch_size * world_size)
        self.rows = Memoized(self._rows, 2)

    def _rows(self, step: int) -> np.ndarray:
        """(global_batch_size,) row ids of an optimizer step, the longest first."""
        start = step * self.global_batch_size
        rows = np.array([self.order[start + place] for place in range(self.global_batch_size)])
        return rows[np.argsort(-self.lengths[rows], kind="stable")]

    def normalizer(self, step: int) -> float:
        """What the loss of this step is divided by, over all ranks and micro-batches."""
        return float(max(1, self.weights[self.rows(step)].sum()))  # 1: a step without targets divides by no 0

    def micro_batch(self, index: int) -> tuple[int, np.ndarray]:
        """The step that this rank's micro-batch `index` belongs to, and the micro-batch's places in that
        step."""
        step, part = divmod(index, self.accumulate)
        first = (part * self.world_size + self.rank) * self.micro_batch_size
        return step, np.arange(first, first + self.micro_batch_size)


def scheduler_errors(trainer: Any) -> list[str]:
    """The line that refuses a callback which makes a step of other micro-batches than its rows are."""
    given = [each for each in trainer.callbacks if isinstance(each, GradientAccumulationScheduler)]
    return [
        f"trainer.callbacks: {type(each).__name__}: data.global_batch_size and micro_batch_size say how many "
        "micro-batches a step has: leave it out"
        for each in given
        if each.going_to_accumulate_grad_batches()
    ]
