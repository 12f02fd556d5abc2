"""`parameters` of a sweep's YAML → parameters with their distributions, by W&B's rules for what is left
out."""

import math
import re
from collections.abc import Iterator, Mapping
from typing import Any

from experiments.plan.units import nearest
from experiments.sweep.distributions import Parameter
from experiments.sweep.numbers import is_int, is_number, text_hint
from experiments.sweep.vocabulary import DISTRIBUTIONS, EXPONENTS, FIELDS

MOST_VALUES = 2**53  # a list's length is a whole number that a double holds
NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_.-]*")


def parameters_of(given: Any, into: list[Parameter]) -> list[str]:
    """Reads `parameters`, nested ones too; returns what is wrong, a line each.

    Args:
        into: gets the parameters.
    """
    if not isinstance(given, dict) or not given:
        return [] if given is None else ["parameters: give a mapping of names to what each may be"]
    errors = list(_read(given, (), into))
    names = [each.name for each in into]
    return errors + [
        f"parameters.{name} is there twice: once nested" for name in {n for n in names if names.count(n) > 1}
    ]


def _read(given: Mapping[str, Any], path: tuple[str, ...], into: list[Parameter]) -> Iterator[str]:
    for name, fields in given.items():
        where = ".".join(("parameters", *path, str(name)))
        if not isinstance(name, str) or not NAME.fullmatch(name):
            yield f"{where}: W&B's names begin with a letter and hold letters, digits, `_`, `.` and `-`"
        elif not isinstance(fields, dict):
            yield f"{where} is {fields}: give `value: {fields}`"
        elif (
            set(fields) == {"parameters"} and isinstance(fields["parameters"], dict) and fields["parameters"]
        ):
            yield from _read(fields["parameters"], (*path, name), into)
        else:
            kind, errors = _distribution(fields)
            errors = errors or [*_field_errors(kind, fields)] or [*_value_errors(kind, fields)]
            yield from (f"{where}{error}" for error in errors)
            if not errors:
                defaults = {key: value for key, value in DISTRIBUTIONS[kind].items() if value is not None}
                known = {key: value for key, value in fields.items() if key != "distribution"}
                into.append(Parameter((*path, name), kind, {**defaults, **known}))


def _distribution(fields: Mapping[str, Any]) -> tuple[str, list[str]]:
    """The distribution that fields name, or that W&B takes for them where they name none."""
    unknown = [key for key in fields if key not in FIELDS]
    if unknown:
        return "", [f": there is no key `{key}`: {nearest(str(key), sorted(FIELDS))}" for key in unknown]
    if "parameters" in fields:
        return "", [": `parameters` holds nested ones, and stands alone: leave the other keys out"]
    if "distribution" in fields:
        kind = fields["distribution"]
        if not isinstance(kind, str) or kind not in DISTRIBUTIONS:
            return "", [f".distribution: there is no `{kind}`: {nearest(str(kind), sorted(DISTRIBUTIONS))}"]
        return kind, []
    if "value" in fields:
        return "constant", []
    if "values" in fields:
        return "categorical_w_probabilities" if "probabilities" in fields else "categorical", []
    if "min" in fields and "max" in fields:
        return "int_uniform" if is_int(fields["min"]) and is_int(fields["max"]) else "uniform", []
    return "", [": give `value`, `values`, `min` and `max`, or a `distribution`"]


def _field_errors(kind: str, fields: Mapping[str, Any]) -> Iterator[str]:
    """Fields that the distribution lacks or does not know."""
    known = DISTRIBUTIONS[kind]
    if kind == "categorical" and "probabilities" in fields:
        yield ".distribution: with `probabilities` it is categorical_w_probabilities"
        return
    for key in fields:
        if key != "distribution" and key not in known:
            yield f": {kind} has no `{key}`: it takes {', '.join(known)}"
    for key, default in known.items():
        if default is None and key not in fields:
            yield f": {kind} needs `{key}`"


def _value_errors(kind: str, fields: Mapping[str, Any]) -> Iterator[str]:
    for key in ("min", "max", "mu", "sigma", "q", "a", "b"):
        value = fields.get(key, 1)
        if key in DISTRIBUTIONS[kind] and not is_number(value):
            yield f".{key} is {value}: give a number{text_hint(value)}"
            return
    if "values" in fields and (not isinstance(fields["values"], list) or not fields["values"]):
        yield ".values: give a list of one or more"
        return
    if kind == "int_uniform" and not (is_int(fields["min"]) and is_int(fields["max"])):
        yield ": int_uniform needs whole numbers as `min` and `max`"
    if "min" in DISTRIBUTIONS[kind] and fields["min"] >= fields["max"]:
        yield f": min {fields['min']} is not below max {fields['max']}"
    elif kind.endswith("_values") and fields["min"] <= 0:
        yield f".min is {fields['min']}: {kind} needs a number above 0"
    elif (
        kind in ("log_uniform", "inv_log_uniform", "q_log_uniform")
        and max(abs(fields["min"]), abs(fields["max"])) > 700
    ):
        yield f": min and max of {kind} are exponents of e, and these overflow: see {EXPONENTS[kind]}"
    if fields.get("q", 1) <= 0:
        yield f".q is {fields['q']}: give a number above 0"
    elif kind == "q_uniform" and (fields["max"] - fields["min"]) / fields.get("q", 1) > MOST_VALUES:
        yield f".q is {fields['q']}: that is too small for a range up to {fields['max']}"
    if fields.get("sigma", 1) < 0:
        yield f".sigma is {fields['sigma']}: give 0 or more"
    for key in ("a", "b"):
        if fields.get(key, 1) <= 0:
            yield f".{key} is {fields[key]}: give a number above 0"
    if kind == "categorical_w_probabilities":
        yield from _probability_errors(fields["values"], fields["probabilities"])


def _probability_errors(values: list[Any], given: Any) -> Iterator[str]:
    if not isinstance(given, list) or not all(is_number(p) and p >= 0 for p in given):
        yield ".probabilities: give a list of numbers of 0 or more"
    elif len(given) != len(values):
        yield f": there are {len(values)} values and {len(given)} probabilities"
    elif not math.isclose(sum(given), 1.0, rel_tol=1e-5, abs_tol=1e-8):
        yield f".probabilities add up to {sum(given):g}: let them add up to 1"


def exponents(parameter: Parameter) -> str | None:
    """A line about a distribution whose limits are exponents, which most take for the values themselves."""
    if parameter.distribution not in EXPONENTS:
        return None
    low, high = (math.exp(parameter.fields[limit]) for limit in ("min", "max"))
    if parameter.distribution == "inv_log_uniform":
        low, high = 1 / high, 1 / low
    return (
        f"parameters.{parameter.name}: {parameter.distribution} takes exponents of e: values from {low:.4g} "
        f"to {high:.4g}; {EXPONENTS[parameter.distribution]} takes the values themselves"
    )
