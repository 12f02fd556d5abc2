"""`trivium plan --mixture FILE --tokens 1.4e12`: how many tokens of each source of a corpus a budget draws,
and how many epochs that is. The shares are the data module's, from the same code (`MixtureSchedule`).
"""

import json
import math
from collections.abc import Mapping, Sequence
from decimal import ROUND_DOWN, Context
from typing import TYPE_CHECKING, NamedTuple

from experiments.cli.user_errors import UserError
from experiments.plan.mixture_file import Change, Mixture, Source, count, read_mixture
from experiments.plan.units import amount

if TYPE_CHECKING:
    from rich.table import Table

    from datamodules.sampling.mixture_schedule import MixtureSchedule

TOLERANCE = 1e-6  # relative: a source that meets its max_epochs to rounding does not pass it


class SourcePlan(NamedTuple):
    """What a budget takes of a source."""

    share: float
    """of the tokens of the whole budget, 0 to 1"""
    tokens: float
    """tokens drawn, repeats counted"""
    epochs: float
    """tokens drawn / unique tokens"""
    second_epoch: float | None
    """after how many tokens of all sources it has been seen once, also past the budget; None = never"""


def mixture_plan(
    sources: Mapping[str, Source],
    tokens: int,
    temperature: float | None = None,
    changes: Sequence[Change] = (),
) -> dict[str, SourcePlan]:
    """What a budget takes of each source of a mixture.

    Args:
        sources: name → source.
        tokens: the budget, of all sources together.
        temperature: τ; the shares become weight × tokens^τ, in `changes` too.
        changes: phases with other weights, in any order.

    Raises:
        UserError: a weight is negative or not finite, or all that hold at a time are zero.
    """
    schedule = _schedule(sources, temperature, changes)
    drawn = [float(count) for count in schedule.target(tokens)]
    return {
        name: SourcePlan(
            share=drawn[i] / tokens,
            tokens=drawn[i],
            epochs=drawn[i] / source.tokens,
            second_epoch=_reached(schedule, i, source.tokens),
        )
        for i, (name, source) in enumerate(sources.items())
    }


def _schedule(
    sources: Mapping[str, Source], temperature: float | None, changes: Sequence[Change]
) -> "MixtureSchedule":
    """The data module's schedule, with blocks of one token."""
    from datamodules.sampling.mixture_schedule import MixtureSchedule, temperature_weights

    weights = {0: [source.weight for source in sources.values()]}
    for change in changes:
        weights[change.after_tokens] = [change.weights.get(name, 0.0) for name in sources]
    if temperature is not None:
        try:
            by_size = temperature_weights([source.tokens for source in sources.values()], temperature)
        except OverflowError as error:
            raise UserError(
                f"temperature is {temperature:g}, too large to raise tokens to: 1 is in proportion to size"
            ) from error
        weights = {at: [w * s for w, s in zip(ws, by_size, strict=True)] for at, ws in weights.items()}
    return MixtureSchedule(weights.pop(0), weights)


def _reached(schedule: "MixtureSchedule", source: int, drawn: float) -> float | None:
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
    found = []
    for name, plan in mixture_plan(mixture.sources, tokens, mixture.temperature, mixture.changes).items():
        limit = mixture.sources[name].max_epochs
        if limit is not None and _passes(plan.epochs, limit):
            found.append(
                f"sources.{name} would be seen {plan.epochs:.2f} times, {plan.epochs - limit:.3g} more "
                f"than its max_epochs {limit:g}: {_remedies(mixture, tokens, name, limit)}"
            )
    return found


def _passes(epochs: float, limit: float) -> bool:
    return epochs > limit * (1 + TOLERANCE)


def _remedies(mixture: Mixture, tokens: int, name: str, limit: float) -> str:
    source = mixture.sources[name]
    schedule = _schedule(mixture.sources, mixture.temperature, mixture.changes)
    budget = _reached(schedule, list(mixture.sources).index(name), limit * source.tokens)
    remedies = []
    if factor := _allowed_factor(mixture, tokens, name, limit):
        if mixture.changes:
            remedies.append(f"lower its weights, in `changes` too, to {_down(factor)} of what they are")
        else:
            remedies.append(f"lower its weight from {source.weight:g} to {_down(factor * source.weight)}")
    if budget is not None:
        remedies.append(f"train on fewer tokens, --tokens {_down(budget)}")
    return ", or ".join(remedies)


def _allowed_factor(mixture: Mixture, tokens: int, name: str, limit: float) -> float:
    """The largest factor on a source's weights that keeps it within `limit` epochs; 0 if there is none, as
    where it is the only source."""
    low, high = 0.0, 1.0
    for _ in range(40):
        middle = (low + high) / 2
        scaled = _scaled(mixture, name, middle)
        plan = mixture_plan(scaled.sources, tokens, scaled.temperature, scaled.changes)
        low, high = (low, middle) if plan[name].epochs > limit else (middle, high)
    return low


def _scaled(mixture: Mixture, name: str, factor: float) -> Mixture:
    source = mixture.sources[name]
    sources = {**mixture.sources, name: source._replace(weight=source.weight * factor)}
    changes = tuple(
        change._replace(weights={n: w * factor if n == name else w for n, w in change.weights.items()})
        for change in mixture.changes
    )
    return mixture._replace(sources=sources, changes=changes)


def _down(number: float) -> str:
    """Three digits, rounded down, so that who follows an advice keeps to the limit."""
    three = Context(prec=3, rounding=ROUND_DOWN).create_decimal(repr(number * (1 + 1e-9)))
    return f"{float(three):.3g}"


def table(mixture: Mixture, plan: Mapping[str, SourcePlan], tokens: int) -> "Table":
    """The plan as a table; a source that passes its max_epochs is marked."""
    from rich.table import Table
    from rich.text import Text

    result = Table(title=f"{amount(tokens)} tokens", title_justify="left")
    result.add_column("source", overflow="fold")
    for heading in ("share", "unique tokens", "tokens drawn", "epochs"):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, each in plan.items():
        source = mixture.sources[name]
        limit = source.max_epochs
        passes = limit is not None and _passes(each.epochs, limit)
        result.add_row(
            Text(name),
            f"{each.share:.1%}",
            amount(source.tokens),
            amount(each.tokens),
            f"{each.epochs:.2f}" + (f" > {limit:g}" if passes else ""),
            style="bold red" if passes else None,
        )
    result.add_section()
    unique = sum(source.tokens for source in mixture.sources.values())
    drawn = sum(each.tokens for each in plan.values())
    result.add_row("total", "100.0%", amount(unique), amount(drawn), f"{drawn / unique:.2f}")
    return result


def second_epochs(plan: Mapping[str, SourcePlan], tokens: int) -> list[str]:
    """From which number of tokens on each source is seen again, the first to be so first."""
    never = [name for name, each in plan.items() if each.second_epoch is None]
    starts = {name: each.second_epoch for name, each in plan.items() if each.second_epoch is not None}
    width = max(map(len, plan))
    lines = [
        f"  {name:<{width}}  {amount(start)}" + (" (past this budget)" if start >= tokens else "")
        for name, start in sorted(starts.items(), key=lambda item: item[1])
    ]
    return ["second epoch begins after", *lines, *(f"  {name:<{width}}  never" for name in never)]


def as_json(plan: Mapping[str, SourcePlan]) -> str:
    """The plan for programs: share, tokens drawn and epochs of each source."""
    keys = ("share", "tokens", "epochs")
    sources = {name: {key: getattr(each, key) for key in keys} for name, each in plan.items()}
    return json.dumps({"sources": sources}, ensure_ascii=False)


def plan_mixture(path: str, budget: str | None, to_json: bool) -> int:
    """`trivium plan --mixture`: prints the plan.

    Raises:
        UserError: for a mistake in the file or the budget; after printing, for sources seen too often.
    """
    if budget is None:
        raise UserError("--mixture needs a budget: give --tokens, such as --tokens 1.4e12")
    wrong: list[str] = []
    tokens = count("--tokens", budget, wrong)
    if wrong:
        raise UserError(wrong[0])
    mixture = read_mixture(path)
    plan = mixture_plan(mixture.sources, tokens, mixture.temperature, mixture.changes)
    if to_json:
        print(as_json(plan))
    else:
        from rich.console import Console

        console = Console(highlight=False)
        console.print(table(mixture, plan, tokens))
        for line in second_epochs(plan, tokens):
            console.print(line, markup=False, soft_wrap=True)
    if passed := over_limits(mixture, tokens):
        raise UserError("\n".join(passed))
    return 0
