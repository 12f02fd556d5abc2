"""A parameter of a sweep: W&B's distributions by their quantile functions, and what optuna searches.

optuna knows few of them, so that it searches quantiles: a number between 0 and 1 for each parameter, which
its distribution turns into a value. Drawn evenly it is W&B's random search, modelled it is the space W&B's
own bayes models. Whole numbers and lists of values are searched as such.
"""

import math
from collections.abc import Mapping, Sequence
from itertools import accumulate, pairwise
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

if TYPE_CHECKING:
    from optuna.distributions import BaseDistribution


class Parameter(NamedTuple):
    """One parameter of a sweep."""

    path: tuple[str, ...]
    """the keys that lead to it in the YAML; more than one where `parameters` are nested"""
    distribution: str
    fields: Mapping[str, Any]

    @property
    def name(self) -> str:
        """Its dotted name."""
        return ".".join(self.path)

    @property
    def choices(self) -> Sequence[Any] | None:
        """The values that a grid takes in turn; None where there is no end of them."""
        fields = self.fields
        if self.distribution == "constant":
            return [fields["value"]]
        if self.distribution.startswith("categorical"):
            return fields["values"]
        if self.distribution == "int_uniform":
            return range(fields["min"], fields["max"] + 1)
        if self.distribution == "q_uniform":  # W&B's grid ends before `max`
            return Steps(fields["min"], fields["max"], fields["q"])
        return None

    @property
    def is_logarithmic(self) -> bool | None:
        """Whether its values are spread over magnitudes; None where they are listed, so that they tell."""
        if self.distribution == "constant" or self.distribution.startswith("categorical"):
            return None
        return "log" in self.distribution

    @property
    def is_constant(self) -> bool:
        return self.distribution == "constant"


class Steps(Sequence[Any]):
    """The values of `numpy.arange(low, high, step)`, each made when it is asked for: they may be many.

    Args:
        low: the first.
        high: what all are below.
        step: from one to the next, above 0.
    """

    def __init__(self, low: float, high: float, step: float):
        self.low, self.step = low, low + step - low  # as rounded as arange's
        self.length = math.ceil((high - low) / step)

    def __len__(self) -> int:
        return self.length

    def __getitem__(self, index: Any) -> Any:
        return self.low + range(self.length)[index] * self.step


def searched(parameter: Parameter) -> "BaseDistribution":
    """What optuna searches for a parameter: an index of its values (ordered where they rise or fall), a whole
    number, or a quantile."""
    from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution

    if parameter.distribution == "categorical":
        count = len(parameter.fields["values"])
        if _is_monotone(parameter.fields["values"]):
            return IntDistribution(0, count - 1)
        return CategoricalDistribution(range(count))
    if parameter.distribution == "int_uniform":
        return IntDistribution(parameter.fields["min"], parameter.fields["max"])
    return FloatDistribution(0.0, 1.0)


def value_of(parameter: Parameter, place: float) -> Any:
    """The value that stands at a place of `searched`."""
    if parameter.distribution == "categorical":
        return parameter.fields["values"][int(place)]
    if parameter.distribution == "int_uniform":
        return int(place)
    return quantile(parameter, place)


def place_of(parameter: Parameter, index: int) -> Any:
    """Where the value of that index among a grid's stands in `searched`."""
    if parameter.distribution == "int_uniform":
        return parameter.fields["min"] + index
    if parameter.distribution == "q_uniform":
        low, high = parameter.fields["min"], parameter.fields["max"]
        return ((parameter.choices or ())[index] - low) / (high - low)
    return index


def quantile(parameter: Parameter, u: float) -> Any:
    """The value below which a share `u` of a parameter's values lies, by W&B's definition.

    Rounded ones (`q_…`) are whole numbers where `q` is one, and may come to lie outside the limits by half of
    it.
    """
    fields, kind = parameter.fields, parameter.distribution
    if kind == "categorical_w_probabilities":
        below = list(accumulate(fields["probabilities"]))
        last = max(i for i, p in enumerate(fields["probabilities"]) if p > 0)
        return fields["values"][next((i for i, p in enumerate(below) if u < p), last)]
    value = float(_continuous(kind.removeprefix("q_"), fields, u))
    if not kind.startswith("q_"):
        return value
    q = fields["q"]
    rounded = np.round(value / q) * q
    return int(rounded) if isinstance(q, int) else float(rounded)


def _continuous(kind: str, fields: Mapping[str, Any], u: float) -> float:
    from scipy import stats

    low, high = fields.get("min", 0.0), fields.get("max", 1.0)
    if kind == "uniform":
        return low + u * (high - low)
    if kind == "log_uniform":  # limits are exponents
        return math.exp(low + u * (high - low))
    if kind == "log_uniform_values":
        return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    if kind == "inv_log_uniform":  # log(1/x) is uniform between the limits
        return math.exp(-(high - u * (high - low)))
    if kind == "inv_log_uniform_values":  # the same as log_uniform_values: log(1/x) = −log x
        return math.exp(math.log(low) + u * (math.log(high) - math.log(low)))
    if kind == "normal":
        return stats.norm.ppf(_inside(u), fields["mu"], fields["sigma"])
    if kind == "log_normal":
        return math.exp(stats.norm.ppf(_inside(u), fields["mu"], fields["sigma"]))
    assert kind == "beta", kind
    return stats.beta.ppf(u, fields["a"], fields["b"])


def _inside(u: float) -> float:
    """A quantile whose value is finite: optuna may try the very ends of the space."""
    return min(max(u, 1e-6), 1 - 1e-6)


def _is_monotone(values: Sequence[Any]) -> bool:
    numbers = all(isinstance(value, int | float) and not isinstance(value, bool) for value in values)
    if not numbers or len(values) < 3:
        return False
    steps = [b - a for a, b in pairwise(values)]
    return all(step > 0 for step in steps) or all(step < 0 for step in steps)
