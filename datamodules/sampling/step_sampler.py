"""The step plan: which rows each optimizer step trains on, as a pure function of (seed, step).

Every rank computes the same plan and takes its share, so the order depends neither on ranks nor on workers,
every micro-batch knows the normalizer of its whole step, and the position in the data is one integer.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any, Protocol

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.errors import UserError
from datamodules.sampling.memoized import Memoized
from datamodules.sampling.mixture_schedule import MixtureSchedule

Batch = dict[str, Any]
MakeBatch = Callable[[np.ndarray, np.ndarray], Batch]
WINDOW = 1024  # rows that are shuffled together where more are still coming in


class PerRow(Protocol):
    """A number for each row id, an array or something that finds it out when asked."""

    def __getitem__(self, rows: np.ndarray) -> np.ndarray: ...


class RowOrder(Protocol):
    """An endless sequence of row ids."""

    def __getitem__(self, index: int) -> int: ...


class Shuffled:
    """Row ids 0 … size − 1 in one permutation after another, an epoch each.

    Args:
        size: rows.
        seed: of the permutations; (seed, epoch) fixes one.
    """

    def __init__(self, size: int, seed: int):
        self.size = size
        self.seed = seed
        self._permutation = Memoized(self._draw, 2)

    def __getitem__(self, index: int) -> int:
        epoch, place = divmod(index, self.size)
        return int(self._permutation(epoch)[place])

    def _draw(self, epoch: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch)).permutation(self.size)


class Growing(Protocol):
    """Rows of which more may come."""

    complete: bool

    def __len__(self) -> int: ...

    def wait_for(self, rows: int) -> None:
        """Waits until so many rows are there, or all are."""


class Windowed:
    """Row ids 0 … size − 1 again and again, shuffled within windows, for rows that are still coming in. The
    order does not depend on how many are there when it is asked for.

    Args:
        rows: the rows.
        seed: of the permutations; (seed, epoch, window) fixes one.
        name: of the source, for messages.
        max_epochs: how often a row may come; None = any number.
    """

    def __init__(self, rows: Growing, seed: int, name: str = "", max_epochs: float | None = None):
        self.rows, self.seed, self.name, self.max_epochs = rows, seed, name, max_epochs
        self._permutation = Memoized(self._draw, 2)

    def __getitem__(self, index: int) -> int:
        self.rows.wait_for((index // WINDOW + 1) * WINDOW)
        epoch, place = divmod(index, len(self.rows)) if self.rows.complete else (0, index)
        limit = self.max_epochs if self.rows.complete else None
        if limit is not None and index >= limit * len(self.rows):
            raise UserError(
                f"{self.name} has been seen {limit:g} times, its max_epochs: go on from the last "
                "checkpoint with a lower weight, or with more text"
            )
        start = place - place % WINDOW
        size = min(WINDOW, len(self.rows) - start) if self.rows.complete else WINDOW
        return start + int(self._permutation(epoch, start, size)[place - start])

    def _draw(self, epoch: int, start: int, size: int) -> np.ndarray:
        return np.random.default_rng((self.seed, epoch, start)).permutation(size)


class Mixed:
    """Row ids of several sources drawn by weight, each in an order of its own.

    Args:
        schedule: says which source comes when.
        orders: of each source's rows.
        starts: where each source's row ids begin.
    """

    def __init__(self, schedule: MixtureSchedule, orders: Sequence[RowOrder], starts: Sequence[int]):
        self.schedule, self.orders, self.starts = schedule, orders, starts

    def __getitem__(self, index: int) -> int:
        source, place = self.schedule[index]
        return self.starts[source] + self.orders[source][place]


class StepSampler:
    """Cuts an order into optimizer steps, and a step into micro-batches for ranks.

    Args:
        order: the rows.
        lengths: (rows,) tokens of each row; a step's rows are sorted by it, so that a micro-batch pads
            little.
        weights: (rows,) what each row adds to the normalizer: target tokens, or 1 for a prompt with a ranked
            pair.
        global_batch_size: rows of an optimizer step over all ranks.
        micro_batch_size: rows of one forward on one rank.
        world_size: data-parallel ranks.
        rank: this one.
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
        return float(max(1, self.weights[self.rows(step)].sum()))

    def micro_batch(self, index: int) -> tuple[int, np.ndarray]:
        """The step that this rank's micro-batch `index` belongs to, and the micro-batch's places in that
        step."""
        step, part = divmod(index, self.accumulate)
        first = (part * self.world_size + self.rank) * self.micro_batch_size
        return step, np.arange(first, first + self.micro_batch_size)


class _MicroBatches(Dataset):
    def __init__(self, plan: StepSampler, make: MakeBatch):
        self.sampler, self.make = plan, make

    def __getitem__(self, index: int) -> Batch:
        step, places = self.sampler.micro_batch(index)
        rows = self.sampler.rows(step)
        return {
            **self.make(rows, places),
            "normalizer": torch.tensor(self.sampler.normalizer(step), dtype=torch.float64),
            "rows": torch.from_numpy(rows[places]),
            "step": torch.tensor(step),
        }


class StepLoader:
    """The endless training batches of this rank; its state is one integer, the number of steps taken.

    Not a `DataLoader` subclass: Lightning would put its own sampler into one.

    Args:
        plan: the step plan of this rank.
        make: the row ids of a step and this micro-batch's places in it → batch.
        steps: length in optimizer steps, for progress and for Lightning's epochs.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(self, plan: StepSampler, make: MakeBatch, steps: int, num_workers: int):
        self.sampler, self.steps, self.num_workers = plan, steps, num_workers
        self.data = _MicroBatches(plan, make)
        self.position = 0  # micro-batches handed out

    def __len__(self) -> int:
        return self.steps * self.sampler.accumulate

    def __iter__(self) -> Iterator[Batch]:
        sampler = range(self.position, 2**62)
        loader = DataLoader(
            self.data,
            batch_size=None,
            sampler=sampler,
            num_workers=self.num_workers,
            generator=torch.Generator(),  # so that it draws nothing from the global one
        )
        for batch in loader:
            self.position += 1
            yield batch

    def state_dict(self) -> dict[str, int]:
        return {"step": self.position // self.sampler.accumulate}

    def load_state_dict(self, state: dict[str, int]) -> None:
        self.position = state["step"] * self.sampler.accumulate


class EvalBatches:
    """Every row once, in batches of like length; ranks get equally many.

    Not a `DataLoader`: Lightning would put its own sampler into one.

    Args:
        rows: row ids.
        lengths: (len(rows),) tokens.
        batch_size: rows of a batch.
        ids: (len(split),) what `rows` in a batch says of each row: its number in the source.
        make: row ids → batch; an id of −1 fills up the last batches and must count for nothing.
        world_size: data-parallel ranks.
        rank: this one.
    """

    def __init__(
        self,
        rows: np.ndarray,
        lengths: np.ndarray,
        ids: PerRow,
        batch_size: int,
        make: Callable[[np.ndarray], Batch],
        world_size: int,
        rank: int,
    ):
        batches = -(-len(rows) // (batch_size * world_size)) * world_size
        padded = np.full(batches * batch_size, -1, dtype=np.int64)
        padded[: len(rows)] = rows[np.argsort(-lengths, kind="stable")]
        self.batches = padded.reshape(batches, batch_size)[rank::world_size]
        self.make, self.ids = make, ids

    def __len__(self) -> int:
        return len(self.batches)

    def __iter__(self) -> Iterator[Batch]:
        return (self[index] for index in range(len(self)))

    def __getitem__(self, index: int) -> Batch:
        rows = self.batches[index]
        numbers = np.where(rows >= 0, self.ids[rows], -1)
        return {**self.make(rows), "rows": torch.from_numpy(numbers)}
