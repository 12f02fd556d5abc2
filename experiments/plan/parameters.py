"""`trivium plan --parameters 7.5e9 --devices 64`: what a number of parameters needs, without any config."""

import json
from typing import TYPE_CHECKING, Any

from experiments.cli.user_errors import UserError
from experiments.plan.budget import Budget
from experiments.plan.compute import optimum_lines
from experiments.plan.memory import LAYOUTS, Layout, States, states_per_rank
from experiments.plan.scaling import TOKENS_PER_PARAMETER, tokens_for, training_flops
from experiments.plan.units import amount, count, duration, nearest, size

if TYPE_CHECKING:
    from rich.table import Table

SHARDINGS = ("ddp", "zero1", "zero2", "zero3", "fsdp")


def shardings(parameters: int, devices: int, layout: Layout) -> dict[str, States]:
    """Strategy → states of a rank."""
    return {name: states_per_rank(parameters, name, devices, layout) for name in SHARDINGS}


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
        over = memory is not None and each.total > memory
        total = size(each.total) + (f" > {size(memory)}" if over and memory else "")
        result.add_row(name, *map(size, each), total, style="bold red" if over else None)
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


def plan_parameters(given: str, layout: str | None, budget: Budget, to_json: bool) -> int:
    """Prints the plan.

    Raises:
        UserError: no number of parameters, or an unknown layout.
    """
    wrong: list[str] = []
    parameters = count("--parameters", given, wrong, "such as 7.5e9")
    if layout is not None and layout not in LAYOUTS:
        wrong.append(f"--layout: there is no {layout}: {nearest(layout, LAYOUTS)}")
    if wrong:
        raise UserError("\n".join(wrong))
    name = layout or "mixed"
    devices = budget.devices or 1
    states = shardings(parameters, devices, LAYOUTS[name])
    if to_json:
        print(json.dumps(as_json(parameters, states)))
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    parts = LAYOUTS[name]
    console.print(
        f"{amount(parameters)} parameters, {name}: {parts.weights} + {parts.gradients} + {parts.optimizer} = "
        f"{parts.total} bytes each for weights, gradients and Adam",
        soft_wrap=True,
    )
    console.print(table(states, devices, budget.memory))
    lines = [] if budget.memory is None else [choice_line(states, budget.memory)]
    budgets = {rule: tokens_for(parameters, rule) for rule in TOKENS_PER_PARAMETER}
    lines.append("tokens: " + ", ".join(f"{rule} = {amount(tokens)}" for rule, tokens in budgets.items()))
    tokens = budget.tokens or budgets["20x"]
    flops = training_flops(parameters, tokens)
    lines.append(f"training on {amount(tokens)} tokens: 6·N·D = {flops:.4g} FLOPs")
    if (time := budget.time(flops, devices)) is not None:
        lines[-1] += f", an estimated {duration(time)} on {devices} devices"
    for line in [*lines, *optimum_lines(flops)]:
        console.print(line, markup=False, soft_wrap=True)
    return 0
