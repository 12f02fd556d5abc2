"""How strong models are by which of their replies people preferred: Bradley and Terry's model, with ties."""

from typing import NamedTuple

import numpy as np
from scipy.optimize import minimize

PRIOR = 1e-3
"""precision of a normal prior on the log-strengths, which keeps a model that always wins from infinity; it
moves a strength that a hundred comparisons tell by less than 0.001"""


class Strengths(NamedTuple):
    """A fit of P(i beats j) ∝ πᵢ, P(j beats i) ∝ πⱼ, P(tie) ∝ ν √(πᵢ πⱼ) (Davidson 1970)."""

    log_strengths: np.ndarray
    """(M,) log πᵢ, their mean 0"""
    log_tie: float
    """log ν; minus infinity where nothing is tied"""


def fit(wins: np.ndarray, ties: np.ndarray) -> Strengths:
    """The likeliest strengths.

    Args:
        wins: (M, M) how often the row's model beat the column's.
        ties: (M, M) symmetric, how often the two were tied.
    """
    count = len(wins)
    first, second = np.triu_indices(count, 1)
    outcomes = np.stack([wins[first, second], wins[second, first], ties[first, second]])  # (3, pairs)
    is_tied = bool(outcomes[2].any())

    def negative(parameters: np.ndarray) -> tuple[float, np.ndarray]:
        strengths, log_tie = parameters[:count], parameters[count]
        a, b = strengths[first], strengths[second]
        logits = np.stack([a, b, (a + b) / 2 + (log_tie if is_tied else -np.inf)])
        top = logits.max(0)
        total = top + np.log(np.exp(logits - top).sum(0))
        shares = np.exp(logits - total)
        likely = np.where(outcomes > 0, outcomes * np.where(outcomes > 0, logits - total, 0.0), 0.0).sum()
        error = outcomes - outcomes.sum(0) * shares  # (3, pairs): by how much more than expected
        slope = np.zeros(count + 1)
        np.add.at(slope, first, error[0] + error[2] / 2)
        np.add.at(slope, second, error[1] + error[2] / 2)
        slope[count] = error[2].sum() if is_tied else 0.0
        penalty = PRIOR * parameters
        return float(-likely + penalty @ parameters / 2), penalty - slope

    found = minimize(negative, np.zeros(count + 1), jac=True, method="BFGS", options={"gtol": 1e-8}).x
    strengths = found[:count] - found[:count].mean()
    return Strengths(strengths, float(found[count]) if is_tied else -np.inf)


def chances(strengths: np.ndarray) -> np.ndarray:
    """(M,) the chance of each model to be preferred to a random other one, where one of the two is."""
    difference = strengths[:, None] - strengths[None, :]
    against = 1 / (1 + np.exp(-difference))
    return (against.sum(1) - 0.5) / (len(strengths) - 1)
