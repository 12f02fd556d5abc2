"""`trivium plan --parameters 7.5e9 --devices 64`: what a number of parameters needs, without any config."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence

from experiments.cli.user_errors import UserError
from experiments.plan.budget import Budget, read_budget
from experiments.plan.compute import optimum_lines
from experiments.plan.memory import BYTES_PER_PARAM
from experiments.plan.printing import show, table
from experiments.plan.scaling import TOKENS_PER_PARAMETER, tokens_for, training_flops
from experiments.plan.strategies_memory import STRATEGIES
from experiments.plan.units import amount, count, duration, nearest, size


def main(options: Namespace, overrides: Sequence[str]) -> int:
    """Prints the plan.

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
    devices, memory, each = budget.devices or 1, budget.memory, BYTES_PER_PARAM[name]
    states = {  # what tensor parallelism leaves depends on the network
        strategy.name: strategy(devices).states(parameters, each)
        for strategy in STRATEGIES.values()
        if not strategy.splits_blocks
    }
    bytes_per_rank = {strategy: parts.total for strategy, parts in states.items()}
    if options.json:
        plan = {"parameters": parameters, "states_bytes_per_rank": bytes_per_rank}
        print(json.dumps({**plan, "tokens": rules_of_thumb(parameters)}))
        return 0
    overview = table(f"states of a rank, of {devices}", "strategy", *each._fields, "in all")
    for strategy, parts in states.items():
        over = f" > {size(memory)}" if memory is not None and parts.total > memory else ""
        row = (*map(size, parts), size(parts.total) + over)
        overview.add_row(strategy, *row, style="bold red" if over else None)
    heading = (
        f"{amount(parameters)} parameters, {name}: {' + '.join(map(str, each))} = {each.total} bytes each"
    )
    choice = [] if memory is None else [choice_line(bytes_per_rank, memory)]
    show(f"{heading} for weights, gradients and Adam", overview, *choice, *token_lines(parameters, budget))
    return 0


def rules_of_thumb(parameters: int) -> dict[str, int]:
    """Tokens for a model of so many parameters, by rule."""
    return {rule: tokens_for(parameters, rule) for rule in TOKENS_PER_PARAMETER}


def choice_line(bytes_per_rank: dict[str, int], memory: int) -> str:
    """The simplest strategy whose states leave room."""
    fitting = [name for name, needed in bytes_per_rank.items() if needed <= memory]
    if not fitting:
        return f"no strategy's states fit {size(memory)}: take more devices, or offload the optimizer"
    return (
        f"{fitting[0]} is the simplest whose states fit {size(memory)}; activations come on top, "
        "`trivium plan --config` counts them"
    )


def token_lines(parameters: int, budget: Budget) -> Iterator[str]:
    """Tokens by rules of thumb, what training on them takes, and the best use of as much compute."""
    rules = rules_of_thumb(parameters)
    yield "tokens: " + ", ".join(f"{rule} = {amount(tokens)}" for rule, tokens in rules.items())
    tokens, devices = budget.tokens or rules["20x"], budget.devices or 1
    flops = training_flops(parameters, tokens)
    time = budget.time(flops, devices)
    estimate = "" if time is None else f", an estimated {duration(time)} on {devices} devices"
    yield f"training on {amount(tokens)} tokens: 6·N·D = {flops:.4g} FLOPs{estimate}"
    yield from optimum_lines(flops)
