"""The file that describes a mixture: what it may say, and what is wrong in it."""

from collections.abc import Hashable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from experiments.cli.user_errors import UserError
from experiments.plan.units import count, nearest, number, shown

EXAMPLE = """\
sources:
  web:       {weight: 80, tokens: 852.7e9}                # unique tokens in the source
  code:      {weight: 15, tokens: 98.4e9}
  wikipedia: {weight: 5, tokens: 25.7e9, max_epochs: 4}   # refuse more than 4 epochs
changes:                          # optional: annealing
  - after_tokens: 1.3e12          # from here on these weights hold; web has no share then
    weights: {code: 70, wikipedia: 30}
"""


class Source(NamedTuple):
    """A source of a mixture."""

    tokens: int
    """unique tokens it has"""
    weight: float = 1.0
    max_epochs: float | None = None
    """how often it may be seen; None = any number of times"""


class Change(NamedTuple):
    """A phase of other weights, up to the next change or the end."""

    after_tokens: int
    """tokens of all sources drawn before it"""
    weights: Mapping[str, float]
    """name → weight; a source not named has no share"""


class Mixture(NamedTuple):
    """What a mixture file says."""

    sources: dict[str, Source]
    temperature: float | None = None
    """τ: shares in proportion to weight × tokens^τ; None = to the weight"""
    changes: tuple[Change, ...] = ()


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
    """Reads a mixture file.

    Raises:
        UserError: with a line for each thing wrong in it: the file, the key, what was found, what to give.
    """
    document = _load(path)
    found: list[str] = []
    mixture = _mixture(document, found)
    if found:
        raise UserError("\n".join(f"{path}: {line}" for line in found))
    return mixture


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


def _mixture(document: Any, found: list[str]) -> Mixture:
    """The mixture of a document; what is wrong in it is added to `found`."""
    document = document if isinstance(document, dict) else {}
    _check_keys("", document, Mixture._fields, found)
    given = document.get("sources")
    if not isinstance(given, dict) or not given:
        wanted = "no sources: give `sources:`, one line each, as `web: {weight: 67, tokens: 852.7e9}`"
        found += [] if found else [wanted]  # a key misspelt is the likelier mistake
        return Mixture({})
    sources = {
        name: _source(f"sources.{name}", each, found)
        for name, each in given.items()
        if _is_name("sources", name, found)
    }
    if sources and not any(source.weight for source in sources.values()):
        found.append("sources: every weight is 0: give at least one source a weight above 0")
    temperature = document.get("temperature")
    if temperature is not None:
        temperature = number("temperature", temperature, found, "0 as weighted, 1 in proportion to size", 0)
    return Mixture(sources, temperature, _changes(document.get("changes"), sources, found))


def _source(where: str, given: Any, found: list[str]) -> Source:
    if not isinstance(given, dict):
        found.append(f"{where} is {shown(given)}: give a mapping, as {{weight: 67, tokens: 852.7e9}}")
        return Source(1)
    _check_keys(where, given, Source._fields, found)
    weight = number(f"{where}.weight", given.get("weight", 1), found, "0 for none", 0)
    limit = given.get("max_epochs")
    if limit is not None:
        limit = number(f"{where}.max_epochs", limit, found, "or leave it out for no limit")
    if "tokens" not in given:
        found.append(f"{where} has no `tokens`: give its number of unique tokens, such as 852.7e9")
        return Source(1, weight, limit)
    return Source(count(f"{where}.tokens", given["tokens"], found), weight, limit)


def _changes(given: Any, sources: Mapping[str, Source], found: list[str]) -> tuple[Change, ...]:
    if given is None:
        return ()
    if not isinstance(given, list):
        found.append(f"changes is {shown(given)}: give a list of {{after_tokens: 1e12, weights: {{…}}}}")
        return ()
    changes = [_change(f"changes[{n}]", each, sources, found) for n, each in enumerate(given)]
    starts = [change.after_tokens for change in changes]
    for place, start in enumerate(starts):
        if start in starts[:place] and not found:
            found.append(f"changes[{place}].after_tokens is {start:g} again: give each change its own")
    return tuple(changes)


def _change(where: str, given: Any, sources: Mapping[str, Source], found: list[str]) -> Change:
    if not isinstance(given, dict) or not isinstance(given.get("weights", {}), dict):
        found.append(f"{where} is {shown(given)}: give {{after_tokens: 1e12, weights: {{name: weight}}}}")
        return Change(1, {})
    _check_keys(where, given, Change._fields, found)
    found += [f"{where} has no `{key}`: give it" for key in Change._fields if key not in given]
    weights = given.get("weights", {})
    _check_keys(f"{where}.weights", weights, sources, found, "source")
    weights = {
        name: number(f"{where}.weights.{name}", w, found, "0 for none", 0) for name, w in weights.items()
    }
    if "weights" in given and not any(weights.values()):
        found.append(f"{where}.weights: every weight is 0: give at least one source a weight above 0")
    return Change(count(f"{where}.after_tokens", given.get("after_tokens", 1), found), weights)


def _check_keys(
    where: str,
    given: Mapping[Any, Any],
    known: Sequence[str] | Mapping[str, Any],
    found: list[str],
    what: str = "key",
) -> None:
    for key in given:
        if key not in known:
            hint = nearest(str(key), known)
            found.append(f"{where + ': ' if where else ''}there is no {what} `{key}`: {hint}")


def _is_name(where: str, name: Any, found: list[str]) -> bool:
    if not isinstance(name, str):  # YAML reads `no` as false and `2024` as a number
        found.append(f"{where}: the name {name!r} is not text: put it in quotes")
    return isinstance(name, str)
