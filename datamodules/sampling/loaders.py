"""Loaders: the batches of one rank, an endless training stream and every row once for evaluation.

Neither is a `DataLoader`: Lightning would put a `DistributedSampler` of its own into one, and the rows are
already dealt out to ranks.
"""

from collections.abc import Callable, Iterator

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from datamodules.collate import Batch
from datamodules.sampling.step_sampler import PerRow, StepSampler

MakeStepBatch = Callable[[np.ndarray, np.ndarray], Batch]
"""row ids of a whole step, and the places of a micro-batch in it → the micro-batch"""
MakeBatch = Callable[[np.ndarray], Batch]
"""row ids, −1 for a row that fills up and must count for nothing → batch"""


class StepLoader(Dataset):
    """The endless training batches of this rank; its state, which Lightning saves in checkpoints, is one
    integer: the number of steps taken.

    Args:
        make: the row ids of a step and this micro-batch's places in it → batch.
        steps: length in optimizer steps, for progress and for Lightning's epochs.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(self, sampler: StepSampler, make: MakeStepBatch, steps: int, num_workers: int):
        self.sampler, self.make, self.steps, self.num_workers = sampler, make, steps, num_workers
        self.position = 0  # micro-batches handed out

    def __len__(self) -> int:
        return self.steps * self.sampler.accumulate

    def __getitem__(self, index: int) -> Batch:
        """This rank's micro-batch of that number."""
        step, places = self.sampler.micro_batch(index)
        rows = self.sampler.rows(step)
        return {
            **self.make(rows, places),
            "normalizer": torch.tensor(self.sampler.normalizer(step), dtype=torch.float64),
            "rows": torch.from_numpy(rows[places]),
            "step": torch.tensor(step),
        }

    def __iter__(self) -> Iterator[Batch]:
        loader = DataLoader(
            self,
            batch_size=None,  # it gives whole batches
            sampler=range(self.position, 2**62),  # without end: the trainer's limits stop it
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
    """Every row once, in batches of like length; ranks get equally many, or one would wait for the other.

    Args:
        rows: row ids.
        lengths: (len(rows),) tokens.
        ids: (len(split),) what `rows` in a batch says of each row: its number in the source.
        make: row ids → batch; an id of −1 fills up the last batches and must count for nothing.
        rank: this one of the `world_size` data-parallel ranks.
    """

    def __init__(
        self,
        rows: np.ndarray,
        lengths: np.ndarray,
        ids: PerRow,
        batch_size: int,
        make: MakeBatch,
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
