"""Optimizer steps whose loss or gradients are not finite: all ranks skip them together, and too many in a row
end a run, before anything is saved that they have touched."""

from typing import Any

import torch
import torch.distributed as dist
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor

from modules.errors import UserError

MOST_ROWS = 8  # that a line names


def spoiled(loss: Tensor) -> Tensor:
    """The loss, whose gradients are NaN where it is not finite itself: an infinite loss may have finite ones,
    and the norm of the gradients, which all ranks know, decides on a step."""
    return loss * (loss.detach() * 0 + 1)


class BadSteps:
    """Counts them, and remembers which rows were to blame.

    Args:
        limit: in a row, with which a run ends.
    """

    def __init__(self, limit: int):
        self.limit, self.in_a_row = limit, 0
        self.losses: list[tuple[Tensor, Any]] = []

    def note(self, loss: Tensor, rows: Any) -> None:
        """Remembers a micro-batch of the present step: its loss, and its rows' ids."""
        self.losses.append((loss.detach(), rows))

    def end_step(self, bad: bool, step: int) -> None:
        """Ends a step; every rank must, and say the same of it.

        Args:
            bad: whether it was skipped.
            step: optimizer steps that have been taken, with this one.

        Raises:
            UserError: it is the last that may be.
        """
        losses, self.losses = self.losses, []
        self.in_a_row = self.in_a_row + 1 if bad else 0
        if not bad:
            return
        what = "its gradients are not finite"
        if blamed := _gathered([_numbers(rows) for loss, rows in losses if not torch.isfinite(loss)]):
            what = f"its loss is not finite ({', '.join(blamed)})"
        if self.in_a_row < self.limit:
            rank_zero_info(f"step {step} is skipped: {what}; {self.limit} such steps in a row end the run")
            return
        raise UserError(
            f"step {step}: {what}, as of {self.limit} steps in a row, which were all skipped "
            f"(model.max_bad_steps {self.limit}): look at these rows, and go on from the last checkpoint "
            "(`--ckpt_path newest`) with a lower learning rate or gradient_clip_val"
        )


def _numbers(rows: Any) -> list[int]:
    return [int(row) for row in rows if row >= 0] if rows is not None else []


def _gathered(rows: list[list[int]]) -> list[str]:
    """What every rank says of its micro-batches, in words."""
    own = [number for some in rows for number in some]
    of_ranks: list[Any] = [own if rows else None]
    if dist.is_initialized():
        of_ranks = [None] * dist.get_world_size()
        dist.all_gather_object(of_ranks, own if rows else None)
    words = []
    for rank, numbers in enumerate(of_ranks):
        if numbers is not None:
            more = ", …" if len(numbers) > MOST_ROWS else ""
            where = f"rank {rank}, " if len(of_ranks) > 1 else ""
            words.append(f"{where}among rows {', '.join(map(str, numbers[:MOST_ROWS]))}{more}")
    return words
