"""`trivium plan --compute C`: the model and the tokens a compute budget is best spent on, by three fits."""

import json

from experiments.cli.user_errors import UserError
from experiments.plan.budget import Budget
from experiments.plan.scaling import FITS, TWENTY_NOTE, optimum
from experiments.plan.units import amount, duration, number


def optima(flops: float) -> dict[str, dict[str, float]]:
    """Fit → parameters, tokens, tokens a parameter and loss of the optimum for a budget of FLOPs."""
    found = {name: optimum(fit, flops) for name, fit in FITS.items()}
    return {name: {**best._asdict(), "tokens_per_parameter": best.ratio} for name, best in found.items()}


def optimum_lines(flops: float) -> list[str]:
    """The optima in words."""
    lines = [f"the best use of {flops:.4g} FLOPs (C = 6·N·D) by L = E + A/N^α + B/D^β:"]
    lines += [
        f"  {name:<20}  {amount(best['parameters']):>8} parameters  {amount(best['tokens']):>8} tokens  "
        f"{best['tokens_per_parameter']:.3g} tokens a parameter  loss {best['loss']:.4f}"
        for name, best in optima(flops).items()
    ]
    return [*lines, f"  {TWENTY_NOTE}"]


def plan_compute(given: str, budget: Budget, to_json: bool) -> int:
    """Prints the optimum.

    Raises:
        UserError: a budget that is no number above 0.
    """
    wrong: list[str] = []
    flops = number("--compute", given, wrong, "FLOPs such as 5.76e23")
    if wrong:
        raise UserError(wrong[0])
    time = budget.time(flops, budget.devices or 1)
    if to_json:
        print(json.dumps({"compute": flops, "optimum": optima(flops), "seconds": time}))
        return 0
    from rich.console import Console

    console = Console(highlight=False)
    lines = optimum_lines(flops)
    if time is not None:
        lines.append(f"an estimated {duration(time)} on {budget.devices or 1} devices")
    for line in lines:
        console.print(line, markup=False, soft_wrap=True)
    return 0
