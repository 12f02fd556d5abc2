"""`trivium scaling predict`: a law fitted without the largest runs, and how far off it is on them."""

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError
from experiments.plan.scaling import Fit, loss, read_fit
from experiments.plan.units import amount, show, table

if TYPE_CHECKING:
    from experiments.scaling.points import Points

EPILOG = """\
The runs of the largest budget (those within 5 % of the most FLOPs) are held out, and the law is fitted to the
others, of which six or more must be left. The error that is told first is that of the largest run: the most
parameters of that budget. It is printed whatever it is: nothing is chosen by it.

With --fit the law is not fitted but read, from what `trivium scaling fit` wrote, and every run of the file is
predicted: give runs that it was not fitted to.

examples:
  trivium scaling predict runs/scaling/results.csv
  trivium scaling predict larger.csv --fit runs/scaling/scaling.json --json
"""


def main(argv: list[str]) -> int:
    """Runs `trivium scaling predict`.

    Raises:
        UserError: points that cannot be read or fitted, or too few of smaller budgets.
    """
    options = _parser().parse_args(argv)
    from experiments.scaling.points import FEWEST, read_points

    if options.fit is not None:
        fit, unseen, fitted = read_fit(options.fit), read_points(options.file, fewest=1), None
    else:
        points = read_points(options.file)
        known, unseen = held_out(points)
        fitted = len(known.loss)
        if fitted < FEWEST:
            left = f"without the {len(unseen.loss)} runs of the largest budget {fitted} are left"
            needs = f"a fit of five constants needs {FEWEST} or more"
            raise UserError(f"{options.file}: {left}, but {needs}: add smaller runs")
        from experiments.scaling.fit import progress
        from experiments.scaling.law import SEARCHES, fit_law

        with progress(SEARCHES) as step:
            fit = fit_law(known, step).fit
    report = errors(fit, unseen) | {"fitted_points": fitted, **fit._asdict()}
    if options.json:
        print(json.dumps(report))
    else:
        show(*_parts(report))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="trivium scaling predict",
        description="Predicts the largest runs from a fit of the others, and prints the error.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="CSV of runs, as for `trivium scaling fit`")
    parser.add_argument("--fit", metavar="FILE", type=Path, help="a scaling.json: predict every run by it")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    return parser


def held_out(points: "Points") -> "tuple[Points, Points]":
    """The points of all budgets but the largest, and its own."""
    from experiments.scaling.points import BUDGET_WIDTH

    largest = points.flops * (1 + BUDGET_WIDTH) >= points.flops.max()
    return points.kept(~largest), points.kept(largest)


def errors(fit: Fit, points: "Points") -> dict[str, Any]:
    """What a fit says of each run: predicted − measured in nats a token and as a share of what was measured;
    the largest run is that with the most parameters of the largest budget."""
    from experiments.scaling.points import BUDGET_WIDTH

    runs = sorted(zip(points.flops, points.parameters, points.tokens, points.loss, strict=True), reverse=True)
    told = []
    for flops, parameters, tokens, measured in (map(float, run) for run in runs):
        predicted = loss(fit, parameters, tokens)
        run = {"flops": flops, "parameters": parameters, "tokens": tokens, "loss": measured}
        error = {"error": predicted - measured, "relative_error": (predicted - measured) / measured}
        told.append({**run, "predicted": predicted, **error})
    most = told[0]["flops"] / (1 + BUDGET_WIDTH)
    largest = max((run for run in told if run["flops"] >= most), key=lambda run: run["parameters"])
    return {"largest": largest, "runs": told}


def _parts(report: dict[str, Any]) -> list[Any]:
    """What is printed: the largest run's error in words, a table of all."""
    largest, fitted = report["largest"], report["fitted_points"]
    source = "the fit of the file" if fitted is None else f"a fit of the {fitted} runs of smaller budgets"
    line = (
        f"the largest run ({amount(largest['parameters'])} parameters, {amount(largest['tokens'])} tokens, "
        f"{largest['flops']:.3g} FLOPs): loss {largest['loss']:.4f}, predicted {largest['predicted']:.4f} by "
        f"{source}: an error of {largest['error']:+.4f} nats a token ({largest['relative_error']:+.2%})"
    )
    rows = table("predicted runs", "FLOPs", "parameters", "tokens", "loss", "predicted", "error")
    for run in report["runs"]:
        losses = f"{run['loss']:.4f}", f"{run['predicted']:.4f}", f"{run['error']:+.4f}"
        rows.add_row(f"{run['flops']:.3g}", amount(run["parameters"]), amount(run["tokens"]), *losses)
    return [line, rows]
