"""`trivium plan --compute C`: the model and the tokens a compute budget is best spent on, by three fits."""

import json
from argparse import Namespace
from collections.abc import Iterator, Sequence

from experiments.cli.user_errors import UserError
from experiments.plan.budget import read_budget
from experiments.plan.printing import show
from experiments.plan.scaling import FITS, TWENTY_NOTE, optimum
from experiments.plan.units import amount, duration, number


def optima(flops: float) -> dict[str, dict[str, float]]:
    """Fit → parameters, tokens, loss and tokens a parameter of the optimum for a budget of FLOPs."""
    return {name: optimum(fit, flops)._asdict() for name, fit in FITS.items()}


def optimum_lines(flops: float) -> Iterator[str]:
    """The optima in words."""
    yield f"the best use of {flops:.4g} FLOPs (C = 6·N·D) by L = E + A/N^α + B/D^β:"
    for name, best in optima(flops).items():
        yield (
            f"  {name:<20}  {amount(best['parameters']):>8} parameters  {amount(best['tokens']):>8} tokens  "
            f"{best['tokens_per_parameter']:.3g} tokens a parameter  loss {best['loss']:.4f}"
        )
    yield f"  {TWENTY_NOTE}"


def main(options: Namespace, overrides: Sequence[str]) -> int:
    """Prints the optimum.

    Raises:
        UserError: a budget that is no number above 0.
    """
    errors: list[str] = []
    budget = read_budget(options)
    flops = number("--compute", options.compute, errors, "FLOPs such as 5.76e23")
    if errors:
        raise UserError(errors[0])
    devices = budget.devices or 1
    time = budget.time(flops, devices)
    if options.json:
        print(json.dumps({"compute": flops, "optimum": optima(flops), "seconds": time}))
        return 0
    estimate = [] if time is None else [f"an estimated {duration(time)} on {devices} devices"]
    show(*optimum_lines(flops), *estimate)
    return 0
