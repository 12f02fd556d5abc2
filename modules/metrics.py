"""Metrics as sums and counts over all ranks, never an average of averages."""

import torch
from torch import Tensor
from torchmetrics import Metric


class GroupedMean(Metric):
    """Σ / count for each of so many groups (sources, bins)."""

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
        """Sums and counts over all ranks; torchmetrics makes scalars of them where there is one group."""
        return self.total, self.count

    def groups(self) -> tuple[Tensor, Tensor]:
        """Sums (groups,) and counts (groups,) over all ranks: divide one by the other, or their totals."""
        total, count = self.compute()
        return total.reshape(-1), count.reshape(-1)


class Correlation(Metric):
    """Pearson's correlation from sums over all ranks; 0 where one side does not vary."""

    full_state_update = False
    sums: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.add_state("sums", torch.zeros(6, dtype=torch.float64), dist_reduce_fx="sum")

    def update(self, x: Tensor, y: Tensor) -> None:
        """Adds pairs (n,) and (n,)."""
        x, y = x.double(), y.double()
        self.sums += torch.stack([torch.ones_like(x), x, y, x * x, y * y, x * y]).sum(1)

    def compute(self) -> Tensor:
        """A scalar between −1 and 1."""
        n, x, y, xx, yy, xy = self.sums
        spread = ((n * xx - x * x) * (n * yy - y * y)).clamp(min=0).sqrt()
        return torch.where(spread > 0, (n * xy - x * y) / spread.clamp(min=1e-300), 0.0).float()
