"""The parametric law fitted to points: L(N, D) = E + A/N^α + B/D^β by Huber's loss on log L, with standard
errors from a bootstrap (Hoffmann et al. 2022, §3.3 and appendix D.2; Besiroglu et al. 2024)."""

import itertools
import math
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from scipy.optimize import OptimizeResult, minimize

from experiments.cli.user_errors import UserError
from experiments.plan.scaling import Fit
from experiments.scaling.points import Points

DELTA = 1e-3  # of Huber's loss: larger differences of log L count by their size, not its square
SCALE = 1e3  # of the objective while it is minimised: else L-BFGS stops early (Besiroglu et al. 2024, §2)
RESAMPLES = 300
# x = (log A, log B, log E, α, β): where a search begins, and what it may not leave
STARTS: tuple[tuple[float, ...], ...] = ((0, 10, 20), (0, 10, 20), (-1, 0, 1), (0.1, 0.5, 1), (0.1, 0.5, 1))
BOUNDS = ((-5.0, 60.0), (-5.0, 60.0), (-5.0, 5.0), (0.01, 2.0), (0.01, 2.0))
SEARCHES = math.prod(len(starts) for starts in STARTS)
NAMES = ("A", "B", "E", "alpha", "beta")
LOGS = 3  # of x: the first three are logarithms
ROUGHLY, EXACTLY = 1e-6, 1e-15  # relative change of the objective at which a search ends
POLISHED = 10  # of the starts' searches, the best, are taken to the end
EDGE = 1e-3  # this near to a bound, as a share of its range, an optimum is at the edge
ACROSS = 0.1  # of log N and log D, how far points must spread across the line that fits them best
DEPENDENT = 1e-7  # singular values of the law's slopes below this share of the largest: not identified


class Law(NamedTuple):
    """The best fit."""

    fit: Fit
    objective: float  # Σ Huber(log L predicted − log L), not a mean
    x: np.ndarray  # log A, log B, log E, α, β


class Spread(NamedTuple):
    """How far a fit moves when the points are drawn again."""

    stderr: dict[str, float]  # of every constant
    interval: dict[str, tuple[float, float]]  # the middle 95 % of them
    resamples: int
    at_edge: int
    """resamples whose optimum is at the edge of what is searched"""


def objective(
    x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray, log_loss: np.ndarray
) -> tuple[float, np.ndarray]:
    """Σ Huber(log(E + A/N^α + B/D^β) − log L) and its gradient (5,), the sum through log-sum-exp.

    Args:
        x: log A, log B, log E, α, β.
        log_n, log_d, log_loss: of the points, (n,).
    """
    predicted, shares = log_prediction(x, log_n, log_d)
    error = predicted - log_loss
    size = np.abs(error)
    huber = np.where(size <= DELTA, 0.5 * error**2, DELTA * (size - 0.5 * DELTA))
    return float(huber.sum()), slopes(shares, log_n, log_d) @ np.clip(error, -DELTA, DELTA)


def log_prediction(x: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """log L (n,), and which share each of its three terms has in L (3, n)."""
    terms = np.stack([x[0] - x[3] * log_n, x[1] - x[4] * log_d, np.full_like(log_n, x[2])])
    largest = terms.max(0)
    weights = np.exp(terms - largest)
    total = weights.sum(0)
    return largest + np.log(total), weights / total


def slopes(shares: np.ndarray, log_n: np.ndarray, log_d: np.ndarray) -> np.ndarray:
    """∂ log L / ∂x of every point, (5, n)."""
    return np.stack([*shares, -shares[0] * log_n, -shares[1] * log_d])


def fit_law(points: Points, step: Callable[[], Any] = lambda: None) -> Law:
    """The best of searches from a grid of starts.

    Args:
        points: six or more.
        step: called after each of `SEARCHES` searches.

    Raises:
        UserError: the optimum is at the edge of what is searched, or the points do not determine it.
    """
    data, rough = _logarithms(points), []
    _refuse_a_line(data)
    for start in itertools.product(*STARTS):
        rough.append(_search(np.array(start, dtype=np.float64), data, ROUGHLY))
        step()
    rough.sort(key=lambda result: result.fun)
    best = min((_search(result.x, data) for result in rough[:POLISHED]), key=lambda result: result.fun)
    _refuse_unidentified(best.x, data)
    return Law(Fit(**_constants(best.x)), float(best.fun) / SCALE, best.x)


def bootstrap(
    points: Points,
    law: Law,
    resamples: int = RESAMPLES,
    seed: int = 0,
    step: Callable[[], Any] = lambda: None,
) -> Spread:
    """Fits the law again, from its optimum, to draws of as many points with replacement.

    Args:
        points: those of the law.
        resamples: draws, two or more; `step` is called after each.
    """
    data, rng = _logarithms(points), np.random.default_rng(seed)
    drawn = []
    for _ in range(resamples):
        chosen = rng.integers(0, data.shape[1], data.shape[1])
        drawn.append(_search(law.x, data[:, chosen]).x)
        step()
    constants = np.array([list(_constants(x).values()) for x in drawn])
    low, high = np.percentile(constants, (2.5, 97.5), axis=0).tolist()
    return Spread(
        stderr=dict(zip(NAMES, constants.std(0, ddof=1).tolist(), strict=True)),
        interval=dict(zip(NAMES, zip(low, high, strict=True), strict=True)),
        resamples=resamples,
        at_edge=sum(bool(_edges(x)) for x in drawn),
    )


def _logarithms(points: Points) -> np.ndarray:
    """log N, log D and log L, (3, n)."""
    return np.log(np.stack([points.parameters, points.tokens, points.loss]))


def _search(start: np.ndarray, data: np.ndarray, tolerance: float = EXACTLY) -> OptimizeResult:
    def scaled(x: np.ndarray) -> tuple[float, np.ndarray]:
        value, gradient = objective(x, *data)
        return SCALE * value, SCALE * gradient

    options = {"maxiter": 2000, "ftol": tolerance, "gtol": 1e-10}
    return minimize(scaled, start, jac=True, method="L-BFGS-B", bounds=BOUNDS, options=options)


def _constants(x: np.ndarray) -> dict[str, float]:
    return dict(zip(NAMES, [*np.exp(x[:LOGS]).tolist(), *x[LOGS:].tolist()], strict=True))


def _edges(x: np.ndarray) -> list[str]:
    """The constants that are at the edge of what is searched, with their values."""
    return [
        f"{name} = {value:.3g}"
        for (name, value), at, (low, high) in zip(_constants(x).items(), x, BOUNDS, strict=True)
        if min(at - low, high - at) < EDGE * (high - low)
    ]


def _refuse_a_line(data: np.ndarray) -> None:
    """Refuses runs along a line of log N and log D, such as all with 20 tokens a parameter or all of one
    budget: how much of the loss is size's and how much is data's, they cannot tell."""
    centred = data[:2] - data[:2].mean(1, keepdims=True)
    across = np.linalg.svd(centred, compute_uv=False)[-1] / data.shape[1] ** 0.5
    if across < ACROSS:
        raise UserError(
            f"{_shape(data)} lie on a line, as where all have the same tokens a parameter or one budget: "
            "they do not determine five constants; add runs in which size and tokens vary apart"
        )


def _refuse_unidentified(x: np.ndarray, data: np.ndarray) -> None:
    """Refuses an optimum that the points do not single out."""
    if edges := _edges(x):
        raise UserError(
            f"the fit's optimum is at the edge of what is searched ({', '.join(edges)}): {_shape(data)} do "
            "not show all three terms of the law; add runs of other sizes and lengths, or longer ones"
        )
    _, shares = log_prediction(x, *data[:2])
    columns = slopes(shares, *data[:2])
    singular = np.linalg.svd(columns / np.linalg.norm(columns, axis=1, keepdims=True), compute_uv=False)
    if singular[-1] < DEPENDENT * singular[0]:
        raise UserError(
            f"{_shape(data)} do not determine the five constants: other constants fit as well; add runs of "
            "other sizes and lengths, three of each or more"
        )


def _shape(data: np.ndarray) -> str:
    sizes, lengths = (len(np.unique(column)) for column in data[:2])
    return f"{data.shape[1]} points of {sizes} sizes and {lengths} numbers of tokens"
