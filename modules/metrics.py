"""Metrics as sums and counts over all ranks, never an average of averages."""

import torch
from torch import Tensor
from torchmetrics import Metric


class GroupedMean(Metric):
    """Σ / count for each group (a source, a task).

    Args:
        groups: how many groups there are.
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, groups: int):
        super().__init__()
        self.add_state("total", torch.zeros(groups, dtype=torch.float64), dist_reduce_fx="sum")
        self.add_state("count", torch.zeros(groups, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, sums: Tensor, counts: Tensor, group: Tensor) -> None:
        """Adds row sums (B,) and row counts (B,) to the rows' groups (B,) int64."""
        self.total.index_add_(0, group, sums.to(self.total.dtype))
        self.count.index_add_(0, group, counts.to(self.count.dtype))

    def compute(self) -> tuple[Tensor, Tensor]:
        """Sums (groups,) and counts (groups,): divide one by the other, or their totals."""
        return self.total, self.count
