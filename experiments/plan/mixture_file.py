"""A mixture, read from the data module's YAML: a stage's whole configuration, or a file of `sources`."""

from collections.abc import Hashable, Iterable
from dataclasses import fields, replace
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import yaml

from datamodules.sampling.mixture import GLOBAL_BATCH_SIZE, SEQUENCE_LENGTH, Mixture, Source
from experiments.cli.user_errors import UserError
from experiments.plan.units import nearest, number, shown

KEYS = ("sources", "weight_changes", "temperature", "sequence_length", "global_batch_size")
SOURCE_KEYS = tuple(each.name for each in fields(Source))
HINTS: dict[str, tuple[str, float | None]] = {
    "weight": ("0 for none", 0),
    "max_epochs": ("or leave it out for no limit", None),
    "tokens": ("such as 852.7e9", 1),
    "temperature": ("0 as weighted, 1 in proportion to size", 0),
    "sequence_length": ("tokens of a block", 1),
    "global_batch_size": ("blocks of a step", 1),
}
"""field → what to give, and the least of it; None = above 0"""
DEFAULTS = dict(zip(KEYS[2:], (None, SEQUENCE_LENGTH, GLOBAL_BATCH_SIZE), strict=True))
ALIKE = 0.85  # nearer to a key than another argument of the data module is: a slip of the pen


class _Loader(yaml.SafeLoader):
    """YAML in which a key may be given once; PyYAML's own takes the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                raise yaml.MarkedYAMLError(
                    problem=f"`{key.value}` is given twice", problem_mark=key.start_mark
                )
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mixture(path: str) -> Mixture:
    """Reads a mixture.

    Returns:
        The mixture, whose sources have their `tokens`, and whose weights change after numbers of tokens
        instead of optimizer steps.

    Raises:
        UserError: with a line for each thing wrong in it: the file, the key, what is there, what to give.
    """
    errors: list[str] = []
    data, is_whole = _data_arguments(_load(path))
    unknown = [key for key in data if key not in KEYS]
    if is_whole:  # the data module's other arguments are no business of a mixture
        unknown = [key for key in unknown if get_close_matches(str(key), KEYS, cutoff=ALIKE)]
    errors += [f"there is no key `{key}`: {nearest(str(key), KEYS)}" for key in unknown]
    sources, changes = _sources(data.get("sources"), errors), _weight_changes(data, errors)
    numbers = DEFAULTS | _numbers("data", data, KEYS[2:], errors)
    mixture = Mixture(sources, changes, numbers["temperature"])
    errors += mixture.config_errors() if sources else []
    if errors:
        raise UserError("\n".join(f"{path}: {line}" for line in errors))
    tokens = int(numbers["sequence_length"] * numbers["global_batch_size"])  # of an optimizer step
    return replace(mixture, weight_changes={step * tokens: weights for step, weights in changes.items()})


def _load(path: str) -> Any:
    if not Path(path).is_file():
        raise UserError(f"--mixture: {path} is not a file: `trivium plan --help` shows an example of one")
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        where = f"line {mark.line + 1}: " if mark else ""
        raise UserError(f"{path}, {where}{error.problem or error.context}: correct the YAML") from error
    except (yaml.YAMLError, ValueError) as error:  # a character or a date that cannot be
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _data_arguments(document: Any) -> tuple[dict[Any, Any], bool]:
    """What a document says to the data module, its `data` or all of it; and whether that is a class with its
    `init_args`, which may have other arguments too."""
    given = document.get("data", document) if isinstance(document, dict) else {}
    is_whole = isinstance(given, dict) and "class_path" in given
    arguments = given.get("init_args") if is_whole else given
    return (arguments if isinstance(arguments, dict) else {}), is_whole


def _sources(given: Any, errors: list[str]) -> dict[str, Source]:
    if not isinstance(given, dict) or not given:
        wanted = "no sources: give `sources:`, one line each, as `web: {weight: 67, tokens: 852.7e9}`"
        errors += [] if errors else [wanted]  # a key misspelt is the likelier mistake
        return {}
    errors += [
        f"sources: the name {name!r} is not text: put it in quotes"  # YAML reads `no` as false
        for name in given
        if not isinstance(name, str)
    ]
    return {name: _source(f"data.sources.{name}", each, errors) for name, each in given.items()}


def _source(where: str, given: Any, errors: list[str]) -> Source:
    if not isinstance(given, dict):
        errors.append(f"{where} is {shown(given)}: give a mapping, as {{weight: 67, tokens: 852.7e9}}")
        return Source("")
    unknown = [str(key) for key in given if key not in SOURCE_KEYS]
    errors += [f"{where}: there is no key `{key}`: {nearest(key, SOURCE_KEYS)}" for key in unknown]
    if given.get("tokens") is None:
        errors.append(f"{where} has no `tokens`: give its number of unique tokens, such as 852.7e9")
    return Source("", **_numbers(where, given, ("weight", "max_epochs", "tokens"), errors))


def _weight_changes(data: dict[Any, Any], errors: list[str]) -> dict[int, dict[str, float]]:
    given, changes = data.get("weight_changes") or {}, {}
    if not isinstance(given, dict):
        errors.append(
            f"data.weight_changes is {shown(given)}: give optimizer steps, as 5000: {{name: weight}}"
        )
        return {}
    for step, weights in given.items():
        where = f"data.weight_changes.{step}"
        if not str(step).isdigit():  # JSON has its keys as text
            errors.append(f"{where}: give an optimizer step after the first")
        elif not isinstance(weights, dict):
            errors.append(f"{where} is {shown(weights)}: give {{name: weight}}")
        else:
            hint = HINTS["weight"]
            changes[int(step)] = {
                name: number(f"{where}.{name}", weight, errors, *hint) for name, weight in weights.items()
            }
    return changes


def _numbers(where: str, given: dict[Any, Any], names: Iterable[str], errors: list[str]) -> dict[str, Any]:
    """Those of the named fields that are given, as numbers."""
    present = {name: given[name] for name in names if given.get(name) is not None}
    return {key: number(f"{where}.{key}", value, errors, *HINTS[key]) for key, value in present.items()}
