"""`trivium scaling run`: IsoFLOP on this machine, a family of sizes each trained at several budgets."""

import argparse
import json
from collections.abc import Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError
from experiments.plan.units import amount, nearest, show, table

if TYPE_CHECKING:
    from experiments.scaling.family import Family, Point

EPILOG = """\
The YAML names a pretraining run (its corpus, batch and network), sizes that differ from it in fields of
model.config, budgets in FLOPs, and the rule of the peak learning rate; --quick is
experiments/configs/scaling/quick.yaml: 4 sizes x {1, 3, 6}e13 FLOPs on the quickstart's corpus (run `trivium
quickstart` first), a good hour on two cores.

A budget of C FLOPs gives a size of N parameters (all of them, tied ones once) C / 6N tokens; results.csv also
has the FLOPs with attention counted. Rates warm up, stay at the peak, and fall in a line over the last
decay_share of a run. Until then the budgets of a size are one run, the trunk, which is trained once and
branched from.

Interrupted, the same command goes on: what has ended is not repeated, the rest goes on from its checkpoint.
Each run is a folder with metrics, checkpoints, export and log.txt; in W&B they are one group. With --size and
--budget one point is trained by itself, as experiments/configs/sweeps/scaling.yaml does for a W&B sweep.
Whatever `trivium fit` takes may follow.

examples:
  trivium scaling run --quick --plan
  trivium scaling run --quick
  trivium scaling run my-family.yaml --trainer.accelerator=gpu
  trivium scaling run my-family.yaml --size d64 --budget 3e13
"""


def main(argv: list[str]) -> int:
    """Runs `trivium scaling run`.

    Raises:
        UserError: a mistake in the YAML or the command line, or data that is not there.
    """
    options, overrides = _parser().parse_known_args(argv)
    if options.quick == (options.config is not None):
        raise UserError("give either a YAML or --quick, and options of `trivium fit` as --NAME=VALUE")
    if overrides and not overrides[0].startswith("-"):
        raise UserError(f"{overrides[0]}: one YAML at a time; options of `trivium fit` begin with --")
    if (options.size is None) != (options.budget is None):
        raise UserError("--size and --budget name one point together: give both, or none for all points")
    from experiments.cli.quiet import hush
    from experiments.scaling.family import QUICK, points_of, read_family
    from experiments.scaling.training import row, train_alone, train_family

    hush()
    family = read_family(QUICK if options.quick else options.config)
    family = family._replace(folder=options.folder or family.folder)
    points = points_of(family, overrides)
    alone = None if options.size is None else _named(points, options.size, options.budget)
    if not options.json:
        show(*_plan(family, points))
    if options.plan:
        return 0
    if alone is not None:
        train_alone(family, alone, points)
        _tell(row(family, alone), options.json)
        return 0
    train_family(family, points, lambda result: _tell(result, options.json))
    if not options.json:
        show(
            f"written: {family.folder / 'results.csv'}: `trivium scaling fit {family.folder / 'results.csv'}`"
        )
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="trivium scaling run",
        description="Trains a family of sizes, each at several budgets of FLOPs, and writes their losses.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("config", nargs="?", type=Path, metavar="CONFIG", help="YAML of the family")
    parser.add_argument("--quick", action="store_true", help="the family that is shipped, in a good hour")
    parser.add_argument("--folder", type=Path, help="for runs and results.csv (the YAML's)")
    parser.add_argument("--plan", action="store_true", help="only tell what would be trained")
    parser.add_argument("--size", metavar="NAME", help="with --budget: train this point alone")
    parser.add_argument("--budget", metavar="C", help="one of the YAML's budgets")
    parser.add_argument("--json", action="store_true", help="print only a line of JSON for each point")
    return parser


def _named(points: "Sequence[Point]", size: str, budget: str) -> "Point":
    """The point of a size and a budget."""
    names = dict.fromkeys(point.size.name for point in points)
    if size not in names:
        raise UserError(f"--size: there is no {size}: {nearest(size, names)}")
    budgets = [point.budget for point in points if point.size.name == size]
    try:
        place = budgets.index(float(budget))
    except ValueError as error:
        from experiments.scaling.family import short

        known = ", ".join(map(short, budgets))
        raise UserError(f"--budget is {budget}: choose from {known}") from error
    return [point for point in points if point.size.name == size][place]


def _plan(family: "Family", points: "Sequence[Point]") -> list[Any]:
    """What would be trained, and what sharing trunks saves."""
    from experiments.scaling.family import short
    from experiments.scaling.training import pieces

    budgets = [short(budget) for budget in family.budgets]
    columns = "size", "parameters", "no embeddings", "peak rate", *budgets
    rows = table("sizes, and steps for each budget of FLOPs", *columns)
    for size, of_size in groupby(points, key=lambda point: point.size):
        counts = amount(size.parameters), amount(size.without_embeddings), f"{size.learning_rate:.3g}"
        rows.add_row(size.name, *counts, *(f"{point.steps:,}" for point in of_size))
    alone, shared = sum(point.flops for point in points), sum(piece.flops for piece in pieces(points))
    return [
        rows,
        f"{amount(points[0].size.step_tokens)} tokens a step; budgets are 6·N·D FLOPs with all parameters",
        f"learning rate: {family.rate} at the peak, warm-up of {family.warmup_steps} steps, then constant, "
        f"and over the last {family.decay_share:.0%} of a run in a line to {family.min_lr_ratio:g} of it",
        f"{shared:.3g} FLOPs to train: budgets of a size share their trunk, which saves "
        f"{1 - shared / alone:.0%} of {alone:.3g}",
    ]


def _tell(result: dict[str, Any], as_json: bool) -> None:
    if as_json:
        print(json.dumps(result), flush=True)
        return
    tokens, epochs = amount(result["tokens"]), f"{result['most_epochs']:.3g} epochs of the source seen most"
    where = f"{result['size']} at {result['budget']:.4g} FLOPs"
    show(f"{where}: loss {result['loss']:.4f} after {tokens} tokens ({epochs})")
