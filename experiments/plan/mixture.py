"""`trivium plan --mixture FILE --tokens 1.4e12`: how many tokens of each source of a corpus a budget draws,
and how many epochs that is. The shares are the data module's, from the same code (`MixtureSchedule`).
"""

import json
import math
from argparse import Namespace
from collections.abc import Mapping, Sequence
from dataclasses import replace
from decimal import ROUND_DOWN, Context
from typing import Any, NamedTuple

from datamodules.sampling.mixture import Mixture
from datamodules.sampling.mixture_schedule import MixtureSchedule
from experiments.cli.user_errors import UserError
from experiments.plan.mixture_file import read_mixture
from experiments.plan.units import amount, count, show, table

TOLERANCE = 1e-6  # relative: a source that meets its max_epochs to rounding does not pass it
JSON_KEYS = ("share", "tokens", "epochs")


class SourcePlan(NamedTuple):
    """What a budget takes of a source."""

    share: float  # of the tokens of the whole budget, 0 to 1
    tokens: float  # tokens drawn, repeats counted
    epochs: float  # tokens drawn / unique tokens
    second_epoch: float | None
    """after how many tokens of all sources it has been seen once, also past the budget; None = never"""


def mixture_plan(mixture: Mixture, tokens: int) -> dict[str, SourcePlan]:
    """What a budget takes of each source of a mixture.

    Args:
        mixture: whose weights change after numbers of tokens, and whose sources have their `tokens`.
        tokens: the budget, of all sources together.

    Raises:
        UserError: a weight is negative or not finite, or all that hold at a time are zero.
    """
    schedule, sizes = _schedule(mixture), _sizes(mixture)
    drawn = [float(count) for count in schedule.target(tokens)]
    return {
        name: SourcePlan(drawn[i] / tokens, drawn[i], drawn[i] / sizes[i], _reached(schedule, i, sizes[i]))
        for i, name in enumerate(mixture.sources)
    }


def _sizes(mixture: Mixture) -> list[float]:
    return [source.tokens or 1 for source in mixture.sources.values()]


def _schedule(mixture: Mixture) -> MixtureSchedule:
    """The data module's schedule, with blocks and steps of one token."""
    return mixture.schedule(1, _sizes(mixture))


def _reached(schedule: MixtureSchedule, source: int, drawn: float) -> float | None:
    """After how many tokens of all sources `drawn` tokens of one have been drawn; None = never."""
    starts = [phase.start for phase in schedule.phases]
    for start, end in zip(starts, [*starts[1:], math.inf], strict=True):
        share = float(schedule.weights(start)[source])
        missing = drawn - float(schedule.target(start)[source])
        if share and missing <= share * (end - start):
            return start + missing / share
    return None


def over_limits(mixture: Mixture, tokens: int) -> list[str]:
    """A line for each source that the budget sees more often than its `max_epochs`: by how much, and which
    weight (all else unchanged) or which budget would keep to it."""
    lines = []
    for name, plan in mixture_plan(mixture, tokens).items():
        limit = mixture.sources[name].max_epochs
        if limit is not None and _passes(plan.epochs, limit):
            lines.append(
                f"data.sources.{name} would be seen {plan.epochs:.2f} times, {plan.epochs - limit:.3g} more "
                f"than its max_epochs {limit:g}: {_remedies(mixture, tokens, name, limit)}"
            )
    return lines


def _passes(epochs: float, limit: float | None) -> bool:
    return limit is not None and epochs > limit * (1 + TOLERANCE)


def _remedies(mixture: Mixture, tokens: int, name: str, limit: float) -> str:
    source, index = mixture.sources[name], list(mixture.sources).index(name)
    remedies = []
    if factor := _allowed_factor(mixture, tokens, name, limit):
        if mixture.weight_changes:
            remedies.append(
                f"lower its weights, in `weight_changes` too, to {_down(factor)} of what they are"
            )
        else:
            remedies.append(f"lower its weight from {source.weight:g} to {_down(factor * source.weight)}")
    schedule = _schedule(mixture)
    if (budget := _reached(schedule, index, limit * _sizes(mixture)[index])) is not None:
        remedies.append(f"train on fewer tokens, --tokens {_down(budget)}")
    return ", or ".join(remedies)


def _allowed_factor(mixture: Mixture, tokens: int, name: str, limit: float) -> float:
    """The largest factor on a source's weights that keeps it within `limit` epochs; 0 if there is none, as
    where it is the only source."""
    low, high = 0.0, 1.0
    for _ in range(40):  # halvings: to a trillionth
        middle = (low + high) / 2
        epochs = mixture_plan(_scaled(mixture, name, middle), tokens)[name].epochs
        low, high = (low, middle) if epochs > limit else (middle, high)
    return low


def _scaled(mixture: Mixture, name: str, factor: float) -> Mixture:
    source = mixture.sources[name]
    changes = {
        step: {each: weight * (factor if each == name else 1) for each, weight in weights.items()}
        for step, weights in mixture.weight_changes.items()
    }
    sources = {**mixture.sources, name: replace(source, weight=source.weight * factor)}
    return replace(mixture, sources=sources, weight_changes=changes)


def _down(number: float) -> str:
    """Three digits, rounded down, so that who follows an advice keeps to the limit."""
    three = Context(prec=3, rounding=ROUND_DOWN).create_decimal(repr(number * (1 + 1e-9)))
    return f"{float(three):.3g}"


def second_epochs(plan: Mapping[str, SourcePlan], tokens: int) -> list[str]:
    """From which number of tokens on each source is seen again, the first to be so first."""
    starts = {
        name: math.inf if each.second_epoch is None else each.second_epoch for name, each in plan.items()
    }
    width = max(map(len, plan))
    lines = ["second epoch begins after"]
    for name, start in sorted(starts.items(), key=lambda item: item[1]):
        late = " (past this budget)" if start >= tokens else ""
        lines.append(f"  {name:<{width}}  " + ("never" if start == math.inf else f"{amount(start)}{late}"))
    return lines


def overview(mixture: Mixture, plan: Mapping[str, SourcePlan], tokens: int) -> Any:
    """The plan as a table; a source that passes its max_epochs is marked."""
    from rich.text import Text

    columns = ("share", "unique tokens", "tokens drawn", "epochs")
    result = table(f"{amount(tokens)} tokens", "source", *columns)
    unique = _sizes(mixture)
    for (name, each), size in zip(plan.items(), unique, strict=True):
        limit = mixture.sources[name].max_epochs
        over = f" > {limit:g}" if _passes(each.epochs, limit) else ""
        row = (f"{each.share:.1%}", amount(size), amount(each.tokens), f"{each.epochs:.2f}{over}")
        result.add_row(Text(name), *row, style="bold red" if over else None)
    result.add_section()
    drawn = sum(each.tokens for each in plan.values())
    result.add_row("total", "100.0%", amount(sum(unique)), amount(drawn), f"{drawn / sum(unique):.2f}")
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
        show(overview(mixture, plan, tokens), *second_epochs(plan, tokens))
    if passed := over_limits(mixture, tokens):
        raise UserError("\n".join(passed))
    return 0
