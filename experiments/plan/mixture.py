"""`trivium plan --mixture FILE --tokens 1.4e12`: how many tokens of each source of a corpus a budget draws,
and how many epochs that is. FILE is the data module's YAML, a stage's whole configuration or `sources` alone;
what makes it impossible and the shares are the data module's, from the same code (`Mixture`)."""

import json
import math
from argparse import Namespace
from collections.abc import Hashable, Iterable, Mapping, Sequence
from dataclasses import fields, replace
from decimal import ROUND_DOWN, Context
from difflib import get_close_matches
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from datamodules.sampling.mixture import GLOBAL_BATCH_SIZE, SEQUENCE_LENGTH, Mixture, Source
from datamodules.sampling.mixture_schedule import MixtureSchedule
from experiments.cli.user_errors import UserError
from experiments.plan.units import amount, count, nearest, number, show, shown, table

TOLERANCE = 1e-6  # relative: a source that meets its max_epochs to rounding does not pass it
JSON_KEYS = ("share", "tokens", "epochs")
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
BATCH = {"sequence_length": SEQUENCE_LENGTH, "global_batch_size": GLOBAL_BATCH_SIZE}
ALIKE = 0.85  # nearer to a key than another argument of the data module is: a slip of the pen


class _Loader(yaml.SafeLoader):
    """YAML in which a key may be given once; PyYAML's own takes the last one silently."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, Any]:
        seen = set()
        for key in [key for key, _ in node.value if isinstance(key, yaml.ScalarNode)]:
            if key.value in seen:
                raise yaml.MarkedYAMLError(None, None, f"`{key.value}` is given twice", key.start_mark)
            seen.add(key.value)
        return super().construct_mapping(node, deep)


def read_mixture(path: str) -> Mixture:
    """Reads a mixture, whose sources have their `tokens`; its weights then change after numbers of tokens
    instead of optimizer steps.

    Raises:
        UserError: with a line for each thing wrong in it: the file, the key, what is there, what to give.
    """
    document, errors = _load(path), list[str]()
    given = document.get("data", document) if isinstance(document, dict) else {}
    is_class = isinstance(given, dict) and "class_path" in given
    data = given.get("init_args") if is_class else given
    data = data if isinstance(data, dict) else {}
    unknown = [key for key in data if key not in KEYS]
    if is_class:  # the data module's other arguments are no business of a mixture
        unknown = [key for key in unknown if get_close_matches(str(key), KEYS, cutoff=ALIKE)]
    errors += [f"there is no key `{key}`: {nearest(str(key), KEYS)}" for key in unknown]
    sources, changes = _sources(data.get("sources"), errors), _weight_changes(data, errors)
    numbers = _numbers("data", data, KEYS[2:], errors)
    mixture = Mixture(sources, changes, numbers.pop("temperature", None))
    errors += mixture.config_errors() if sources else []
    if errors:
        raise UserError("\n".join(f"{path}: {line}" for line in errors))
    tokens = int(math.prod((BATCH | numbers).values()))  # of an optimizer step
    return replace(mixture, weight_changes={step * tokens: weights for step, weights in changes.items()})


def _load(path: str) -> Any:
    if not Path(path).is_file():
        raise UserError(f"--mixture: {path} is not a file: `trivium plan --help` shows an example of one")
    try:
        return yaml.load(Path(path).read_text(encoding="utf-8"), Loader=_Loader)
    except UnicodeDecodeError as error:
        raise UserError(f"{path} is not UTF-8 text ({error.reason} at byte {error.start})") from error
    except yaml.MarkedYAMLError as error:
        where = f"line {error.problem_mark.line + 1}: " if error.problem_mark else ""
        raise UserError(f"{path}, {where}{error.problem}: correct the YAML") from error
    except (yaml.YAMLError, ValueError) as error:  # a character or a date that cannot be
        raise UserError(f"{path} is not YAML: {' '.join(str(error).split())}") from error


def _sources(given: Any, errors: list[str]) -> dict[str, Source]:
    if not isinstance(given, dict) or not given:
        wanted = "no sources: give `sources:`, one line each, as `web: {weight: 67, tokens: 852.7e9}`"
        errors += [] if errors else [wanted]  # a key misspelt is the likelier mistake
        return {}
    unnamed = [name for name in given if not isinstance(name, str)]  # YAML reads `no` as false
    errors += [f"sources: the name {name!r} is not text: put it in quotes" for name in unnamed]
    return {name: _source(f"data.sources.{name}", each, errors) for name, each in given.items()}


def _source(where: str, given: Any, errors: list[str]) -> Source:
    if not isinstance(given, dict):
        errors.append(f"{where} is {shown(given)}: give a mapping, as {{weight: 67, tokens: 852.7e9}}")
        return Source()
    unknown = [str(key) for key in given if key not in SOURCE_KEYS]
    errors += [f"{where}: there is no key `{key}`: {nearest(key, SOURCE_KEYS)}" for key in unknown]
    if given.get("tokens") is None:
        errors.append(f"{where} has no `tokens`: give its number of unique tokens, such as 852.7e9")
    return Source(**_numbers(where, given, ("weight", "max_epochs", "tokens"), errors))


def _weight_changes(data: dict[Any, Any], errors: list[str]) -> dict[int, dict[str, float]]:
    given, changes = data.get("weight_changes") or {}, {}
    if not isinstance(given, dict):
        wanted = "give optimizer steps, as 5000: {name: weight}"
        errors.append(f"data.weight_changes is {shown(given)}: {wanted}")
        return {}
    for step, weights in given.items():
        where = f"data.weight_changes.{step}"
        if not str(step).isdigit():  # JSON has its keys as text
            errors.append(f"{where}: give an optimizer step after the first")
        elif not isinstance(weights, dict):
            errors.append(f"{where} is {shown(weights)}: give {{name: weight}}")
        else:
            numbers = [number(f"{where}.{n}", w, errors, *HINTS["weight"]) for n, w in weights.items()]
            changes[int(step)] = dict(zip(weights, numbers, strict=True))
    return changes


def _numbers(where: str, given: dict[Any, Any], names: Iterable[str], errors: list[str]) -> dict[str, Any]:
    """Those of the named fields that are given, as numbers."""
    present = {name: given[name] for name in names if given.get(name) is not None}
    return {key: number(f"{where}.{key}", value, errors, *HINTS[key]) for key, value in present.items()}


class SourcePlan(NamedTuple):
    """What a budget takes of a source."""

    share: float  # of the tokens of the whole budget, 0 to 1
    tokens: float  # tokens drawn, repeats counted
    epochs: float  # tokens drawn / unique tokens
    second_epoch: float
    """after how many tokens of all sources it has been seen once, also past the budget; infinity = never"""
    unique: float  # tokens of the source
    max_epochs: float

    @property
    def is_over(self) -> bool:
        """Whether it is seen more often than it may be."""
        return self.epochs > self.max_epochs * (1 + TOLERANCE)


def mixture_plan(mixture: Mixture, tokens: int) -> dict[str, SourcePlan]:
    """What a budget takes of each source of a mixture.

    Args:
        mixture: whose weights change after numbers of tokens, and whose sources have their `tokens`.
        tokens: the budget, of all sources together.

    Raises:
        UserError: a weight is negative or not finite, or all that hold at a time are zero.
    """
    schedule, plan = _schedule(mixture), {}
    for i, (name, source) in enumerate(mixture.sources.items()):
        drawn, unique = float(schedule.target(tokens)[i]), source.tokens or 1
        limit = math.inf if source.max_epochs is None else source.max_epochs
        second = _reached(schedule, i, unique)
        plan[name] = SourcePlan(drawn / tokens, drawn, drawn / unique, second, unique, limit)
    return plan


def _schedule(mixture: Mixture) -> MixtureSchedule:
    """The data module's schedule, with blocks and steps of one token."""
    return mixture.schedule(1, [source.tokens or 1 for source in mixture.sources.values()])


def _phases(schedule: MixtureSchedule, source: int) -> list[tuple[int, float, float]]:
    """From which token until which a source has which share."""
    starts = [phase.start for phase in schedule.phases]
    ends = zip(starts, [*starts[1:], math.inf], strict=True)
    return [(start, end, float(schedule.weights(start)[source])) for start, end in ends]


def _reached(schedule: MixtureSchedule, source: int, drawn: float) -> float:
    """After how many tokens of all sources `drawn` tokens of one have been drawn; infinity = never."""
    for start, end, share in _phases(schedule, source):
        missing = drawn - float(schedule.target(start)[source])
        if share and missing <= share * (end - start):
            return start + missing / share
    return math.inf


def over_limits(mixture: Mixture, plan: Mapping[str, SourcePlan], tokens: int) -> list[str]:
    """A line for each source that the budget sees more often than its `max_epochs`: by how much, and which
    weight (all else unchanged) or which budget would keep to it."""
    schedule, lines = _schedule(mixture), []
    for i, (name, each) in enumerate(plan.items()):
        if not each.is_over:
            continue
        most, weight = each.max_epochs * each.unique, mixture.sources[name].weight
        remedies = []
        if factor := _allowed_factor(schedule, i, tokens, most):
            lower = f"lower its weight from {weight:g} to {_down(factor * weight)}"
            changing = f"lower its weights, in `weight_changes` too, to {_down(factor)} of what they are"
            remedies.append(changing if mixture.weight_changes else lower)
        if (budget := _reached(schedule, i, most)) < math.inf:
            remedies.append(f"train on fewer tokens, --tokens {_down(budget)}")
        lines.append(
            f"data.sources.{name} would be seen {each.epochs:.2f} times, {each.epochs - each.max_epochs:.3g} "
            f"more than its max_epochs {each.max_epochs:g}: {', or '.join(remedies)}"
        )
    return lines


def _allowed_factor(schedule: MixtureSchedule, source: int, tokens: int, most: float) -> float:
    """The largest factor on a source's weights with which a budget draws no more than `most` tokens of it; 0
    if there is none, as where it is the only source."""
    phases = [(min(end, tokens) - start, share) for start, end, share in _phases(schedule, source)]
    low, high = 0.0, 1.0
    for _ in range(40):  # halvings: to a trillionth
        factor = (low + high) / 2
        drawn = sum(max(0, n) * factor * share / (factor * share + 1 - share) for n, share in phases)
        low, high = (low, factor) if drawn > most else (factor, high)
    return low


def _down(number: float) -> str:
    """Three digits, rounded down, so that who follows an advice keeps to the limit."""
    three = Context(prec=3, rounding=ROUND_DOWN).create_decimal(repr(number * (1 + 1e-9)))
    return f"{float(three):.3g}"


def second_epochs(plan: Mapping[str, SourcePlan], tokens: int) -> list[str]:
    """From which number of tokens on each source is seen again, the first to be so first."""
    width = max(map(len, plan))
    lines = ["second epoch begins after"]
    for name, each in sorted(plan.items(), key=lambda item: item[1].second_epoch):
        late = " (past this budget)" if each.second_epoch >= tokens else ""
        start = "never" if each.second_epoch == math.inf else f"{amount(each.second_epoch)}{late}"
        lines.append(f"  {name:<{width}}  {start}")
    return lines


def overview(plan: Mapping[str, SourcePlan], tokens: int) -> Any:
    """The plan as a table; a source that passes its max_epochs is marked."""
    from rich.text import Text

    columns = ("share", "unique tokens", "tokens drawn", "epochs")
    result = table(f"{amount(tokens)} tokens", "source", *columns)
    for name, each in plan.items():
        over = f" > {each.max_epochs:g}" if each.is_over else ""
        row = (f"{each.share:.1%}", amount(each.unique), amount(each.tokens), f"{each.epochs:.2f}{over}")
        result.add_row(Text(name), *row, style="bold red" if over else None)
    result.add_section()
    drawn, unique = sum(each.tokens for each in plan.values()), sum(each.unique for each in plan.values())
    result.add_row("total", "100.0%", amount(unique), amount(drawn), f"{drawn / unique:.2f}")
    return result


def main(options: Namespace, overrides: Sequence[str]) -> int:
    """Prints the plan of a mixture.

    Raises:
        UserError: for a mistake in the file or the budget; after printing, for sources seen too often.
    """
    if options.tokens is None:
        raise UserError("--mixture needs a budget: give --tokens, such as --tokens 1.4e12")
    errors: list[str] = []
    tokens = count("--tokens", options.tokens, errors)
    if errors:
        raise UserError(errors[0])
    mixture = read_mixture(options.mixture)
    plan = mixture_plan(mixture, tokens)
    if options.json:
        sources = {name: {key: getattr(each, key) for key in JSON_KEYS} for name, each in plan.items()}
        print(json.dumps({"sources": sources}, ensure_ascii=False))
    else:
        show(overview(plan, tokens), *second_epochs(plan, tokens))
    if passed := over_limits(mixture, plan, tokens):
        raise UserError("\n".join(passed))
    return 0
