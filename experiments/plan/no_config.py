"""Plans that need no config: `--parameters N`, what a model of that size needs; and `--compute C`, the model
and the tokens that so many FLOPs are best spent on, by three fits."""

import json
from argparse import Namespace
from collections.abc import Iterator, Mapping, Sequence

from experiments.cli.user_errors import UserError
from experiments.plan.budget import Budget, read_budget
from experiments.plan.memory import BYTES_PER_PARAM
from experiments.plan.scaling import (
    OWN,
    TWENTY_NOTE,
    Fit,
    by_rule,
    known_fits,
    optima,
    optimal_tokens,
    rules_of_thumb,
    training_flops,
)
from experiments.plan.strategies_memory import STRATEGIES
from experiments.plan.units import amount, count, duration, nearest, number, show, size, table


def compute_main(options: Namespace, overrides: Sequence[str]) -> int:
    """Prints the optimum for a budget of FLOPs.

    Raises:
        UserError: a budget that is no number above 0.
    """
    errors: list[str] = []
    budget = read_budget(options)
    flops = number("--compute", options.compute, errors, "FLOPs such as 5.76e23")
    if errors:
        raise UserError(errors[0])
    fits, devices = known_fits(options.fit), budget.devices or 1
    time = budget.time(flops, devices)
    if options.json:
        print(json.dumps({"compute": flops, "optimum": optima(flops, fits), "seconds": time}))
        return 0
    estimate = [] if time is None else [f"an estimated {duration(time)} on {devices} devices"]
    show(*optimum_lines(flops, fits), *estimate)
    return 0


def optimum_lines(flops: float, fits: Mapping[str, Fit]) -> Iterator[str]:
    """The optima in words; where the user's own fit is among them, also the rules of thumb by it."""
    yield f"the best use of {flops:.4g} FLOPs (C = 6·N·D) by L = E + A/N^α + B/D^β:"
    uses = optima(flops, fits)
    if OWN in fits:
        rules = by_rule(fits[OWN], flops).items()
        uses |= {f"{rule}, by {OWN} fit": use._asdict() for rule, use in rules}
    for name, use in uses.items():
        yield (
            f"  {name:<20}  {amount(use['parameters']):>8} parameters  {amount(use['tokens']):>8} tokens  "
            f"{use['tokens_per_parameter']:.3g} tokens a parameter  loss {use['loss']:.4f}"
        )
    yield f"  {TWENTY_NOTE}"


def parameters_main(options: Namespace, overrides: Sequence[str]) -> int:
    """Prints what a number of parameters needs.

    Raises:
        UserError: no number of parameters, or an unknown layout.
    """
    errors: list[str] = []
    budget, name = read_budget(options), options.layout or "mixed"
    parameters = count("--parameters", options.parameters, errors, "such as 7.5e9")
    if name not in BYTES_PER_PARAM:
        errors.append(f"--layout: there is no {name}: {nearest(name, BYTES_PER_PARAM)}")
    if errors:
        raise UserError("\n".join(errors))
    fits = known_fits(options.fit)
    tokens = rules_of_thumb(parameters)
    tokens |= {OWN: round(optimal_tokens(fits[OWN], parameters))} if OWN in fits else {}
    devices, memory, each = budget.devices or 1, budget.memory, BYTES_PER_PARAM[name]
    states = {  # what tensor parallelism leaves depends on the network
        strategy.name: strategy(devices).states(parameters, each)
        for strategy in STRATEGIES.values()
        if not strategy.splits_blocks
    }
    bytes_per_rank = {strategy: parts.total for strategy, parts in states.items()}
    if options.json:
        plan = {"parameters": parameters, "states_bytes_per_rank": bytes_per_rank}
        print(json.dumps({**plan, "tokens": tokens}))
        return 0
    overview = table(f"states of a rank, of {devices}", "strategy", *each._fields, "in all")
    for strategy, parts in states.items():
        over = f" > {size(memory)}" if memory is not None and parts.total > memory else ""
        row = (*map(size, parts), size(parts.total) + over)
        overview.add_row(strategy, *row, style="bold red" if over else None)
    layout = f"{' + '.join(map(str, each))} = {each.total} bytes each for weights, gradients and Adam"
    choice = [] if memory is None else [_choice(bytes_per_rank, memory)]
    heading = f"{amount(parameters)} parameters, {name}: {layout}"
    show(heading, overview, *choice, *_token_lines(parameters, tokens, budget, fits))
    return 0


def _choice(bytes_per_rank: dict[str, int], memory: int) -> str:
    """The simplest strategy whose states leave room."""
    fitting = [name for name, needed in bytes_per_rank.items() if needed <= memory]
    if not fitting:
        return f"no strategy's states fit {size(memory)}: take more devices, or offload the optimizer"
    return (
        f"{fitting[0]} is the simplest whose states fit {size(memory)}; activations come on top, "
        "`trivium plan --config` counts them"
    )


def _token_lines(
    parameters: int, rules: Mapping[str, int], budget: Budget, fits: Mapping[str, Fit]
) -> Iterator[str]:
    """Tokens by rule, what training on them takes, and the best use of as much compute."""
    yield "tokens: " + ", ".join(f"{rule} = {amount(tokens)}" for rule, tokens in rules.items())
    tokens, devices = budget.tokens or rules["20x"], budget.devices or 1
    flops = training_flops(parameters, tokens)
    time = budget.time(flops, devices)
    estimate = "" if time is None else f", an estimated {duration(time)} on {devices} devices"
    yield f"training on {amount(tokens)} tokens: 6·N·D = {flops:.4g} FLOPs{estimate}"
    yield from optimum_lines(flops, fits)
