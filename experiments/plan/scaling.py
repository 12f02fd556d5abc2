"""How much data and compute a model wants: token budgets, FLOPs, time, and the parametric scaling law."""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli.user_errors import UserError

TOKENS_PER_PARAMETER = {"1.7x": 1.7, "20x": 20.0}
"""rules of thumb: Kaplan et al. 2020 as tutorials quote it; Hoffmann et al. 2022 ("Chinchilla")"""

TWENTY_NOTE = (
    "20 tokens a parameter follow from Epoch's fit, not from the rounded constants that Chinchilla "
    "published, which ask for several times as many"
)


class Fit(NamedTuple):
    """L(N, D) = E + A/N^α + B/D^β: loss in nats a token, by parameters N and tokens D (Hoffmann et al. 2022,
    "Training Compute-Optimal Large Language Models", §3.3)."""

    E: float
    A: float
    B: float
    alpha: float
    beta: float


FITS = {
    "chinchilla": Fit(1.69, 406.4, 410.7, 0.34, 0.28),  # as published, rounded
    "chinchilla-unrounded": Fit(1.69337, 406.401, 410.723, 0.339171, 0.284908),  # from the paper's TeX source
    "epoch": Fit(1.81686, 482.01, 2085.43, 0.34781, 0.36585),  # Besiroglu et al. 2024, a replication
}
OWN = "own"
"""what the user's is called beside the published ones"""


class Allocation(NamedTuple):
    """A use of a compute budget."""

    parameters: float
    tokens: float
    loss: float  # nats a token, as a fit predicts it
    tokens_per_parameter: float


def rules_of_thumb(parameters: int) -> dict[str, int]:
    """Tokens for a model of so many parameters, by rule."""
    return {rule: round(parameters * tokens) for rule, tokens in TOKENS_PER_PARAMETER.items()}


def loss(fit: Fit, parameters: float, tokens: float) -> float:
    """The predicted loss in nats a token."""
    return fit.E + fit.A / parameters**fit.alpha + fit.B / tokens**fit.beta


def optimum(fit: Fit, flops: float) -> Allocation:
    """The model and tokens of the lowest loss for a budget C = 6·N·D (Hoffmann et al. 2022, equation 4):
    N = G·(C/6)^(β/(α+β)), D = (C/6)/N, G = (αA/βB)^(1/(α+β))."""
    power = fit.alpha + fit.beta
    scale = (fit.alpha * fit.A / (fit.beta * fit.B)) ** (1 / power)
    return _allocation(fit, flops, scale * (flops / 6) ** (fit.beta / power))


def by_rule(fit: Fit, flops: float) -> dict[str, Allocation]:
    """Rule of thumb → the model whose tokens by that rule take a budget C = 6·N·D: N = (C/6r)^½ for r tokens
    a parameter; the loss is the fit's."""
    rules = TOKENS_PER_PARAMETER.items()
    return {rule: _allocation(fit, flops, (flops / 6 / ratio) ** 0.5) for rule, ratio in rules}


def _allocation(fit: Fit, flops: float, parameters: float) -> Allocation:
    """What is left for tokens where a model has so many parameters."""
    tokens = flops / 6 / parameters
    return Allocation(parameters, tokens, loss(fit, parameters, tokens), tokens / parameters)


def optima(flops: float, fits: Mapping[str, Fit]) -> dict[str, dict[str, float]]:
    """Fit → parameters, tokens, loss and tokens a parameter of the optimum for a budget of FLOPs."""
    return {name: optimum(fit, flops)._asdict() for name, fit in fits.items()}


def predictions(
    parameters: int, tokens: int | None, flops: float | None, fits: Mapping[str, Fit]
) -> dict[str, Any]:
    """What each fit says of a model: the tokens for which its size is the optimum, the loss after the run's
    tokens and the optimum for the run's compute; None where those are not known."""
    return {
        "optimal_tokens": {name: optimal_tokens(fit, parameters) for name, fit in fits.items()},
        "loss": {name: loss(fit, parameters, tokens) for name, fit in fits.items()} if tokens else None,
        "optimum": optima(flops, fits) if flops else None,
    }


def known_fits(own: str | None) -> dict[str, Fit]:
    """The published fits, and the user's `own` of a file that `trivium scaling fit` wrote.

    Raises:
        UserError: that file is not there, or holds no fit.
    """
    return FITS if own is None else {**FITS, OWN: read_fit(Path(own))}


def read_fit(file: Path) -> Fit:
    """The constants of a JSON file with `E`, `A`, `B`, `alpha` and `beta`.

    Raises:
        UserError: it is not there, is no JSON, or lacks a constant above 0; naming it.
    """
    remedy = "give the scaling.json that `trivium scaling fit` wrote"
    try:
        given = json.loads(file.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{file}: {error.strerror}: {remedy}") from error
    except ValueError as error:  # no JSON, or no UTF-8
        raise UserError(f"{file} is no JSON: {remedy}") from error
    constants = given if isinstance(given, dict) else {}
    for name in Fit._fields:
        value = constants.get(name)
        if isinstance(value, bool) or not isinstance(value, int | float) or not 0 < value < math.inf:
            raise UserError(f"{file}: {name} is {value!r}, no number above 0: {remedy}")
    return Fit(**{name: float(constants[name]) for name in Fit._fields})


def optimal_tokens(fit: Fit, parameters: float) -> float:
    """The tokens for which a model of this size is the optimum: where α·A/N^α = β·B/D^β."""
    return (fit.beta * fit.B * parameters**fit.alpha / (fit.alpha * fit.A)) ** (1 / fit.beta)


def training_flops(parameters: float, tokens: float) -> float:
    """C = 6·N·D: two for each weight's multiplication and addition, forward once, backward twice (Kaplan et
    al. 2020, §2.1)."""
    return 6.0 * parameters * tokens


def forward_flops_per_token(matmul_parameters: int, layers: int, attention_width: int, sequence: int) -> int:
    """FLOPs of a forward pass for one token, matrix products only: 2 a weight, and 2·s·w for each of QKᵀ and
    the scores times V (Hoffmann et al. 2022, appendix F), all s positions counted though a causal kernel may
    skip half.

    Args:
        matmul_parameters: weights of matrices that are multiplied: the head, but no embedding and no vector.
        layers: attention layers.
        attention_width: w, heads × head size.
        sequence: s, tokens of a row.
    """
    return 2 * matmul_parameters + 4 * layers * attention_width * sequence


def seconds(flops: float, devices: int, peak_flops: float, utilisation: float) -> float:
    """An estimate of the time that FLOPs take on devices that reach a share of their peak (MFU, 0 to 1) in
    FLOPs a second."""
    return flops / (devices * peak_flops * utilisation)


def low_rank_parameters(matrices: dict[str, tuple[int, int]], rank: int) -> int:
    """Parameters that LoRA of rank r trains: r·(in + out) for each adapted matrix (Hu et al. 2021), given its
    name → (in, out)."""
    return sum(rank * (rows + columns) for rows, columns in matrices.values())
