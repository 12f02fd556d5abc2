"""`trivium plan --compute C`: the model and the tokens a compute budget is best spent on, by three fits."""

import json

from experiments.cli.user_errors import UserError
from experiments.plan.budget import Budget
from experiments.plan.printing import show
from experiments.plan.scaling import FITS, TWENTY_NOTE, optimum
from experiments.plan.units import amount, duration, number


def optima(flops: float) -> dict[str, dict[str, float]]:
    """Fit → parameters, tokens, tokens a parameter and loss of the optimum for a budget of FLOPs."""
    best = {name: optimum(fit, flops) for name, fit in FITS.items()}
    return {name: {**each._asdict(), "tokens_per_parameter": each.ratio} for name, each in best.items()}


def optimum_lines(flops: float) -> list[str]:
    """The optima in words."""
    lines = [
        f"  {name:<20}  {amount(best['parameters']):>8} parameters  {amount(best['tokens']):>8} tokens  "
        f"{best['tokens_per_parameter']:.3g} tokens a parameter  loss {best['loss']:.4f}"
        for name, best in optima(flops).items()
    ]
    heading = f"the best use of {flops:.4g} FLOPs (C = 6·N·D) by L = E + A/N^α + B/D^β:"
    return [heading, *lines, f"  {TWENTY_NOTE}"]


def plan_compute(given: str, budget: Budget, to_json: bool) -> int:
    """Prints the optimum.

    Raises:
        UserError: a budget that is no number above 0.
    """
    errors: list[str] = []
    flops = number("--compute", given, errors, "FLOPs such as 5.76e23")
    if errors:
        raise UserError(errors[0])
    devices = budget.devices or 1
    time = budget.time(flops, devices)
    if to_json:
        print(json.dumps({"compute": flops, "optimum": optima(flops), "seconds": time}))
        return 0
    estimate = [] if time is None else [f"an estimated {duration(time)} on {devices} devices"]
    show(*optimum_lines(flops), *estimate)
    return 0
