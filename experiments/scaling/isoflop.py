"""IsoFLOP parabolas: of the runs of one budget, which size would have had the lowest loss (Hoffmann et al.
2022, §3.2)."""

from typing import NamedTuple

import numpy as np

from experiments.scaling.points import Points

SIZES = 3  # of a budget, for a parabola


class Parabola(NamedTuple):
    """Loss = c₂·(log N)² + c₁·log N + c₀ over the runs of a budget."""

    flops: float  # the budget: the geometric mean of its runs'
    coefficients: tuple[float, float, float]  # c₂, c₁, c₀
    smallest: float  # parameters of its runs: the least,
    largest: float  # and the most
    points: int
    trained: tuple[tuple[float, ...], tuple[float, ...]]  # log parameters, ascending, and log tokens

    @property
    def parameters(self) -> float | None:
        """Where it is lowest; None where that is not among its sizes, or it has no lowest point."""
        curvature, slope, _ = self.coefficients
        if curvature <= 0:
            return None
        best = float(np.exp(np.clip(-slope / (2 * curvature), -700, 700)))
        return best if self.smallest <= best <= self.largest else None

    @property
    def tokens(self) -> float | None:
        """What a model of that size is trained on, between its neighbours: right too where parameters are
        counted without embeddings and FLOPs with them."""
        if self.parameters is None:
            return None
        return float(np.exp(np.interp(np.log(self.parameters), *self.trained)))

    def loss(self, parameters: float) -> float:
        """Of a model of so many parameters, in nats a token."""
        return float(np.polyval(self.coefficients, np.log(parameters)))


def parabolas(points: Points) -> list[Parabola]:
    """One for each budget that has runs of three sizes or more, the smallest budget first."""
    curves = []
    for chosen in points.budgets:
        same = points.kept(chosen)
        if len(np.unique(same.parameters)) < SIZES:
            continue
        c2, c1, c0 = np.polyfit(np.log(same.parameters), same.loss, 2)
        flops = float(np.exp(np.log(same.flops).mean()))
        ends = float(same.parameters.min()), float(same.parameters.max())
        order = np.argsort(same.parameters)
        trained = (tuple(np.log(same.parameters[order]).tolist()), tuple(np.log(same.tokens[order]).tolist()))
        curves.append(Parabola(flops, (float(c2), float(c1), float(c0)), *ends, len(chosen), trained))
    return curves


def exponent(curves: list[Parabola]) -> float | None:
    """a in N ∝ Cᵃ through the parabolas' lowest points; None where fewer than two have one."""
    lowest = [(each.flops, each.parameters) for each in curves if each.parameters is not None]
    if len(lowest) < 2:
        return None
    log_flops, log_parameters = np.log(np.array(lowest)).T
    return float(np.polyfit(log_flops, log_parameters, 1)[0])
