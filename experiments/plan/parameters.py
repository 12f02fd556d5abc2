"""`trivium plan --parameters 7.5e9 --devices 64`: what a number of parameters needs, without any config."""

import json
from typing import TYPE_CHECKING, Any

from experiments.cli.user_errors import UserError
from experiments.plan.budget import Budget
from experiments.plan.compute import optimum_lines
from experiments.plan.memory import BYTES_PER_PARAM, BytesPerParam, States
from experiments.plan.printing import show
from experiments.plan.scaling import TOKENS_PER_PARAMETER, tokens_for, training_flops
from experiments.plan.strategies_memory import STRATEGIES
from experiments.plan.units import amount, count, duration, nearest, size

if TYPE_CHECKING:
    from rich.table import Table


def plan_parameters(given: str, layout: str | None, budget: Budget, to_json: bool) -> int:
    """Prints the plan.

    Args:
        given: how many parameters.
        layout: which of `BYTES_PER_PARAM`; None = mixed precision.
        budget: of the command line.
        to_json: print only JSON.

    Raises:
        UserError: no number of parameters, or an unknown layout.
    """
    errors: list[str] = []
    parameters = count("--parameters", given, errors, "such as 7.5e9")
    name = layout or "mixed"
    if name not in BYTES_PER_PARAM:
        errors.append(f"--layout: there is no {name}: {nearest(name, BYTES_PER_PARAM)}")
    if errors:
        raise UserError("\n".join(errors))
    devices, bytes_each = budget.devices or 1, BYTES_PER_PARAM[name]
    states = states_by_strategy(parameters, devices, bytes_each)
    if to_json:
        print(json.dumps(as_json(parameters, states)))
        return 0
    heading = f"{amount(parameters)} parameters, {name}: {' + '.join(map(str, bytes_each))} = "
    heading += f"{bytes_each.total} bytes each for weights, gradients and Adam"
    choice = [] if budget.memory is None else [choice_line(states, budget.memory)]
    show(heading, table(states, devices, budget.memory), *choice, *token_lines(parameters, budget))
    return 0


def states_by_strategy(parameters: int, devices: int, bytes_each: BytesPerParam) -> dict[str, States]:
    """Strategy → states of a rank; what tensor parallelism leaves depends on the network."""
    known = [strategy for strategy in STRATEGIES.values() if not strategy.splits_blocks]
    return {strategy.name: strategy(devices).states(parameters, bytes_each) for strategy in known}


def as_json(parameters: int, states: dict[str, States]) -> dict[str, Any]:
    """The plan for programs: bytes and tokens as whole numbers."""
    return {
        "parameters": parameters,
        "states_bytes_per_rank": {name: each.total for name, each in states.items()},
        "tokens": {rule: tokens_for(parameters, rule) for rule in TOKENS_PER_PARAMETER},
    }


def table(states: dict[str, States], devices: int, memory: int | None) -> "Table":
    """Bytes of a rank under each strategy; those over `memory` are marked."""
    from rich.table import Table

    result = Table(title=f"states of a rank, of {devices}", title_justify="left")
    result.add_column("strategy")
    for heading in ("weights", "gradients", "optimizer", "in all"):
        result.add_column(heading, justify="right", no_wrap=True)
    for name, each in states.items():
        is_over = memory is not None and each.total > memory
        total = size(each.total) + (f" > {size(memory)}" if is_over and memory else "")
        result.add_row(name, *map(size, each), total, style="bold red" if is_over else None)
    return result


def choice_line(states: dict[str, States], memory: int) -> str:
    """The simplest strategy whose states leave room."""
    fitting = [name for name, each in states.items() if each.total <= memory]
    if not fitting:
        return f"no strategy's states fit {size(memory)}: take more devices, or offload the optimizer"
    return (
        f"{fitting[0]} is the simplest whose states fit {size(memory)}; activations come on top, "
        "`trivium plan --config` counts them"
    )


def token_lines(parameters: int, budget: Budget) -> list[str]:
    """Tokens by rules of thumb, what training on them takes, and the best use of as much compute."""
    rules = {rule: tokens_for(parameters, rule) for rule in TOKENS_PER_PARAMETER}
    tokens, devices = budget.tokens or rules["20x"], budget.devices or 1
    flops = training_flops(parameters, tokens)
    time = budget.time(flops, devices)
    estimate = "" if time is None else f", an estimated {duration(time)} on {devices} devices"
    return [
        "tokens: " + ", ".join(f"{rule} = {amount(tokens)}" for rule, tokens in rules.items()),
        f"training on {amount(tokens)} tokens: 6·N·D = {flops:.4g} FLOPs{estimate}",
        *optimum_lines(flops),
    ]
