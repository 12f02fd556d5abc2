"""Draws all pictures of the documentation: `python -m experiments.docs.all_pictures`, from the folder that
holds the `runs` of `trivium quickstart`, of `trivium abilities`, of the sweeps of `sweeps.md`, and those of
the pages on ranking and scaling.

What needs no run is drawn from the code; what a command drew of its run is drawn from what that run left.
Pages are taken in Chromium, by playwright.
"""

import argparse
import json
import shutil
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path

from experiments.abilities.picture import draw as draw_abilities
from experiments.abilities.picture import draw_claims
from experiments.cli.shipped_configs import shipped
from experiments.docs import page_pictures, pictures, strategy_pictures, sweeps_picture
from experiments.quickstart.collect import read_curves
from experiments.quickstart.picture import draw as draw_report
from experiments.quickstart.picture import draw_stages
from experiments.sweep.outcome import result_of
from experiments.sweep.picture import draw as draw_sweep
from experiments.sweep.run import SWEEPS, folder_name
from experiments.sweep.spec import Spec, read_spec
from experiments.sweep.study import DATABASE, Study

SWEPT = ("learning_rate", "mixture", "sft", "reward", "ppo")
"""the shipped sweeps that `sweeps.md` shows; `scaling` is a law's"""
DOCS = Path(__file__).resolve().parent
BOOK = DOCS / "book"


def main(argv: list[str]) -> int:
    """Draws into the documentation's own folders; names what it lacks a run for."""
    parser = argparse.ArgumentParser(prog="python -m experiments.docs.all_pictures", description=__doc__)
    option = parser.add_argument
    option("--quickstart", type=Path, default=Path("runs/quickstart"), help="a finished quickstart")
    option(
        "--abilities", type=Path, default=Path("runs/abilities/en"), help="finished abilities, of all claims"
    )
    option("--rank", type=Path, default=Path("runs"), help="what the commands of `rank.md` have written")
    option("--scaling", type=Path, default=Path("runs/scaling"), help="where `trivium scaling fit` has drawn")
    option("--sweeps", type=Path, default=SWEEPS, help="folder of the shipped sweeps' folders")
    options = parser.parse_args(argv)
    of_runs: dict[Path, Callable[[Path], list[Path]]] = {
        options.quickstart / "report.json": _quickstart,
        options.abilities / "abilities.json": _abilities,
        options.rank / "blind.replies.jsonl": _rank_page,
        options.rank / "rank.html": _rank_report,
        options.scaling / "scaling.png": _scaling,
    }
    for name in SWEPT:
        spec = read_spec(shipped("sweeps")[name])
        of_runs[options.sweeps / folder_name(spec.name) / DATABASE] = partial(_sweep, name, spec)
    files = [*pictures.main(str(DOCS)), *strategy_pictures.main(str(DOCS))]
    files += sweeps_picture.main(str(DOCS))
    missing = [file for file in of_runs if not file.is_file()]
    for file, draw in of_runs.items():
        files += [] if file in missing else draw(file)
    print(*files, sep="\n")
    for file in missing:
        print(f"not drawn, as there is no {file}", file=sys.stderr)
    return 1 if missing else 0


def _quickstart(file: Path) -> list[Path]:
    report = json.loads(file.read_text(encoding="utf-8"))
    curves = {stage: read_curves(file.parent / stage) for stage in report["stages"]}
    draw_report(report, curves, DOCS / "report.png")
    page = page_pictures.serve_page(file.parent, DOCS / "serve.png")
    return [DOCS / "report.png", page, *draw_stages(report, curves, BOOK)]


def _abilities(file: Path) -> list[Path]:
    claims = json.loads(file.read_text(encoding="utf-8"))["claims"]
    draw_abilities(claims, DOCS / "abilities.png")
    return [DOCS / "abilities.png", *draw_claims(claims, BOOK)]


def _rank_page(file: Path) -> list[Path]:
    return [page_pictures.rank_page(file, DOCS / "rank.png")]


def _rank_report(file: Path) -> list[Path]:
    return [page_pictures.rank_report(file, DOCS / "rank_report.png")]


def _scaling(file: Path) -> list[Path]:
    return [Path(shutil.copyfile(file, DOCS / "scaling.png"))]


def _sweep(name: str, spec: Spec, file: Path) -> list[Path]:
    result = result_of(spec, file.parent, Study(file.parent, spec).configurations())
    draw_sweep(result, DOCS / f"sweep-{name}.png")
    return [DOCS / f"sweep-{name}.png"]


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
