"""`trivium scaling fit`: the law through a CSV's points, as a table, a picture and a file that plans read."""

import argparse
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from experiments.atomic import write_text
from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError
from experiments.plan.scaling import OWN, TOKENS_PER_PARAMETER, Allocation, by_rule, optimum
from experiments.plan.units import amount, number, show, table

if TYPE_CHECKING:  # scipy and numpy take a second, which `--help` does without
    from experiments.scaling.isoflop import Parabola
    from experiments.scaling.law import Law, Spread
    from experiments.scaling.points import Points

RESULT, PICTURE = "scaling.json", "scaling.png"
FURTHER = 10.0  # times the largest run's compute: the budget that is told where none is given
EPILOG = """\
The file's first line names its columns: `parameters`, `tokens` (trained on) and `loss` (nats a token,
validation), and where you have them `parameters_without_embeddings` and `flops` (else C = 6·N·D). Six points
or more, in which size and tokens vary apart from each other: several sizes at each of several budgets, say.

How it fits: Huber's loss (δ = 1e-3) on log L, summed over the points, through log-sum-exp; L-BFGS from 243
starts; standard errors from a search on each of --resamples draws of the points. What is at the edge of what
is searched, or not determined by the points, is refused. A and B lie on a ridge with α and β: read α, β, E.

It writes scaling.json, which `trivium plan --fit` and `trivium scaling predict --fit` read, and scaling.png.
With --json it prints that JSON alone: {"E", "A", "B", "alpha", "beta", "objective", "stderr": {…}, …}.

examples:
  trivium scaling fit runs/scaling/results.csv
  trivium scaling fit points.csv --flops 1e21 --output fits/mine --json
"""


class Fitted(NamedTuple):
    """The law by one way of counting parameters, and the parabolas beside it."""

    points: "Points"
    law: "Law"
    spread: "Spread"
    curves: "list[Parabola]"


def main(argv: list[str]) -> int:
    """Runs `trivium scaling fit`.

    Raises:
        UserError: points that cannot be read or fitted.
    """
    options = _parser().parse_args(argv)
    errors: list[str] = []
    resamples = int(number("--resamples", options.resamples, errors, "such as 300", least=2))
    flops = options.flops and number("--flops", options.flops, errors, "FLOPs such as 1e21")
    folder = options.output or options.file.parent
    if folder.exists() and not folder.is_dir():
        errors.append(f"--output: {folder} is a file: name a folder")
    if errors:
        raise UserError("\n".join(errors))
    from experiments.scaling.points import read_points

    points = read_points(options.file)
    counted = fit_points(points, resamples)
    budget = flops or FURTHER * float(points.flops.max())
    report = as_json(counted, budget)
    write_text(folder / RESULT, json.dumps(report, indent=2) + "\n")
    drawn = draw(next(iter(counted.values())), folder / PICTURE)
    if options.json:
        print(json.dumps(report))
    else:
        show(*_parts(counted, budget), f"written: {folder / RESULT}{drawn}")
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="trivium scaling fit",
        description="Fits L = E + A/N^α + B/D^β to runs' parameters N, tokens D and losses L.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("file", type=Path, help="CSV of runs, such as `trivium scaling run` writes")
    further = "a budget: what do 1.7x, 20x and the fit say for it? (10 times the largest run's)"
    parser.add_argument("--flops", metavar="C", help=further)
    parser.add_argument("--resamples", metavar="N", default="300", help="of the bootstrap (300)")
    parser.add_argument("--output", metavar="FOLDER", type=Path, help="for the results (the CSV's folder)")
    parser.add_argument("--json", action="store_true", help="print only JSON")
    return parser


def fit_points(points: "Points", resamples: int) -> dict[str, Fitted]:
    """The fits by the name of what they count: all parameters, and those without embeddings where given."""
    from experiments.scaling.isoflop import parabolas
    from experiments.scaling.law import SEARCHES, bootstrap, fit_law

    ways = {"all parameters": points}
    if points.without_embeddings is not None:
        ways["without embeddings"] = points.counted_without_embeddings()
    fits = {}
    with progress(len(ways) * (SEARCHES + resamples)) as step:
        for name, each in ways.items():
            law = fit_law(each, step)
            fits[name] = Fitted(each, law, bootstrap(each, law, resamples, step=step), parabolas(each))
    return fits


@contextmanager
def progress(count: int) -> Iterator[Callable[[], Any]]:
    """A bar on stderr; gives what moves it by one search."""
    from rich.console import Console
    from rich.progress import Progress

    with Progress(console=Console(stderr=True), transient=True) as progress:
        task = progress.add_task("searching", total=count)
        yield lambda: progress.advance(task)


def as_json(counted: dict[str, Fitted], flops: float) -> dict[str, Any]:
    """The first fit for programs and plans, and the one without embeddings within it."""
    main, *others = (_law_json(each, flops) for each in counted.values())
    return main | ({"without_embeddings": others[0]} if others else {})


def _law_json(fitted: Fitted, flops: float) -> dict[str, Any]:
    from experiments.scaling.isoflop import exponent

    law, spread, points, curves = fitted.law, fitted.spread, fitted.points, fitted.curves
    return {
        **law.fit._asdict(),
        "objective": law.objective,
        "stderr": spread.stderr,
        "interval_95": spread.interval,
        "resamples": spread.resamples,
        "resamples_at_edge": spread.at_edge,
        "points": len(points.loss),
        "parameters_range": [float(points.parameters.min()), float(points.parameters.max())],
        "tokens_range": [float(points.tokens.min()), float(points.tokens.max())],
        "parameters_exponent": law.fit.beta / (law.fit.alpha + law.fit.beta),
        "isoflop": {
            "parameters_exponent": exponent(curves),
            "budgets": [
                {"flops": each.flops, "points": each.points, "parameters": each.parameters}
                | {"tokens": each.tokens, "coefficients": each.coefficients}
                for each in curves
            ],
        },
        "flops": flops,
        "uses": {name: use._asdict() for name, use in uses(law, flops).items()},
    }


def uses(law: "Law", flops: float) -> dict[str, Allocation]:
    """What 1.7x, 20x and the fit do with a budget; the losses are the fit's."""
    return {**by_rule(law.fit, flops), OWN: optimum(law.fit, flops)}


def _parts(counted: dict[str, Fitted], flops: float) -> Iterator[Any]:
    """What is printed: tables and lines."""
    for name, fitted in counted.items():
        yield from _law_parts(name, fitted)
    law = next(iter(counted.values())).law
    rows = table(f"{flops:.4g} FLOPs (C = 6·N·D), by", "rule", "parameters", "tokens", "tokens each", "loss")
    for name, use in uses(law, flops).items():
        tokens, ratio = amount(use.tokens), f"{use.tokens_per_parameter:.3g}"
        rows.add_row(name, amount(use.parameters), tokens, ratio, f"{use.loss:.4f}")
    yield rows
    beyond = flops / max(each.points.flops.max() for each in counted.values())
    rules = " and ".join(TOKENS_PER_PARAMETER)
    yield f"all three losses are the fit's; {rules} are rules of thumb" + (
        f"; the budget is {beyond:.3g} times the largest run's: an extrapolation" if beyond > 1 else ""
    )


def _law_parts(name: str, fitted: Fitted) -> Iterator[Any]:
    from experiments.scaling.isoflop import exponent

    law, spread, curves = fitted.law, fitted.spread, fitted.curves
    rows = table(
        f"L = E + A/N^α + B/D^β, N = {name}", "constant", "value", "standard error", "95 % of resamples"
    )
    for constant, value in law.fit._asdict().items():
        low, high = spread.interval[constant]
        rows.add_row(constant, f"{value:.5g}", f"{spread.stderr[constant]:.3g}", f"{low:.4g} to {high:.4g}")
    yield rows
    count = len(fitted.points.loss)
    yield f"objective: {law.objective:.6g}, Σ Huber (δ = 0.001) of log L over {count} points"
    if spread.at_edge:
        yield (
            f"{spread.at_edge} of {spread.resamples} resamples end at the edge of what is searched: the "
            "points hardly determine the law; more runs would"
        )
    power = law.fit.beta / (law.fit.alpha + law.fit.beta)
    yield f"best parameters grow as C^{power:.3f}, tokens as C^{1 - power:.3f}"
    if not curves:
        yield "no parabolas: no budget has runs of three sizes"
        return
    rows = table("IsoFLOP parabolas", "FLOPs", "runs", "parameters", "tokens", "loss")
    for curve in curves:
        lowest = "– no lowest point among its sizes", "–", "–"
        if curve.parameters is not None and curve.tokens is not None:
            lowest = amount(curve.parameters), amount(curve.tokens), f"{curve.loss(curve.parameters):.4f}"
        rows.add_row(f"{curve.flops:.3g}", str(curve.points), *lowest)
    yield rows
    slope = exponent(curves)
    yield "" if slope is None else f"by the parabolas, best parameters grow as C^{slope:.3f}"


def draw(fitted: Fitted, file: Path) -> str:
    """Draws the picture where matplotlib is there; returns what to say of it."""
    try:
        from experiments.scaling.picture import draw_law
    except ModuleNotFoundError as error:
        if not (error.name or "").startswith("matplotlib"):
            raise
        return "; the picture needs matplotlib: pip install 'trivium[abilities]'"
    draw_law(fitted.points, fitted.law.fit, fitted.curves, file)
    return f" and {file}"
