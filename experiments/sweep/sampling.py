"""Which configuration a sweep tries next: the next of a grid, a draw, or what optuna's Gaussian process
expects to be better.

A draw depends on the sweep's seed and on the configuration's number alone, so that a sweep that was killed
goes on with the configurations that it would have had.
"""

import json
import math
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.sweep.distributions import place_of, searched, value_of
from experiments.sweep.spec import Spec

if TYPE_CHECKING:
    from optuna.study import Study

TRIES = 300  # draws in search of a configuration that was not there before


class Tried(NamedTuple):
    """A configuration of the sweep."""

    places: Mapping[str, Any]
    """in the space that optuna searches, by name"""
    values: Mapping[str, Any]
    """by name"""
    objective: float | None
    """to be made small; None while it is running"""


def next_configuration(spec: Spec, tried: Sequence[Tried], seed: int) -> Tried | None:
    """What is tried next; None where everything has been."""
    number = len(tried)
    if spec.method == "grid":
        return _of_grid(spec, number) if number < grid_size(spec) else None
    seen = {_key(each.values) for each in tried}
    for attempt in range(TRIES if spec.searched else 1):
        places = _asked(spec, tried, (seed, number, attempt), spec.method == "bayes" and attempt == 0)
        values = {each.name: value_of(each, places[each.name]) for each in spec.searched}
        if _key(_with_constants(spec, values)) not in seen:
            return Tried(places, _with_constants(spec, values), None)
    return None


def grid_size(spec: Spec) -> int:
    """How many configurations a grid has."""
    return math.prod(len(each.choices or ()) for each in spec.searched)


def study_of(spec: Spec, tried: Sequence[Tried], sampler: Any = None) -> "Study":
    """An optuna study in memory of what has been tried, running ones too."""
    import optuna
    from optuna.trial import TrialState, create_trial

    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(sampler=sampler)
    space = {each.name: searched(each) for each in spec.searched}
    for each in tried:
        state = TrialState.RUNNING if each.objective is None else TrialState.COMPLETE
        study.add_trial(
            create_trial(state=state, params=dict(each.places), distributions=space, value=each.objective)
        )
    return study


def _of_grid(spec: Spec, number: int) -> Tried:
    """The configuration of that number, of which the last parameter changes first."""
    places: dict[str, Any] = {}
    values: dict[str, Any] = {}
    for each in reversed(spec.searched):
        choices = each.choices or ()
        number, index = divmod(number, len(choices))
        places[each.name] = place_of(each, index)
        values[each.name] = choices[index]
    return Tried(places, _with_constants(spec, values), None)


def _with_constants(spec: Spec, values: Mapping[str, Any]) -> dict[str, Any]:
    """All parameters by their dotted names, in the order of the YAML."""
    return {
        each.name: each.fields["value"] if each.is_constant else values[each.name] for each in spec.parameters
    }


def _asked(spec: Spec, tried: Sequence[Tried], seed: tuple[int, int, int], model: bool) -> dict[str, Any]:
    import numpy as np
    from optuna.samplers import GPSampler, RandomSampler

    number = int(np.random.SeedSequence(seed).generate_state(1)[0])
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # that optuna calls its Gaussian process experimental
        sampler = GPSampler(seed=number) if model else RandomSampler(seed=number)
        study = study_of(spec, tried if model else (), sampler)
        return study.ask({each.name: searched(each) for each in spec.searched}).params


def _key(values: Mapping[str, Any]) -> str:
    return json.dumps(values, sort_keys=True, default=str)
