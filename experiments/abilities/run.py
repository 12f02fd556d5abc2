"""`trivium abilities [NAME…]`: trains the experiments' small models, asks them, writes `abilities.html`."""

import argparse
import json
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.abilities.catalogue import NAMES, SEEDS, Job, by_arm, jobs_of, made
from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from experiments.abilities.ability import Ability, Bar, Finding, Runs

TEXTS = {"prompt": "prompts", "answer": "answers", "expected": "expected"}  # of a sample → of `Answers`


def main(argv: list[str]) -> int:
    """Runs `trivium abilities …`."""
    lines = "\n".join(f"  {name:<17} {claim}" for name, claim in NAMES.items())
    parser = ArgumentParser(
        prog="trivium abilities",
        description="Tries what language models can do, on models so small that a laptop trains them in "
        f"minutes; each claim has controls, intervals and a verdict.\n\nclaims:\n{lines}",
        epilog="All six with one seed take about 20 minutes on two cores, with three seeds about 50. What is "
        "done already is not repeated, and the page keeps the claims that were tried before.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option("names", nargs="*", metavar="NAME", help="which claims (all six)")
    option("--seeds", type=int, default=SEEDS, help=f"models of each kind, with seeds from 0 on ({SEEDS})")
    option("--language", choices=("en", "zh"), default="en", help="of the words, where there are any (en)")
    option("--output", default="runs/abilities", help="folder of models, answers and page (runs/abilities)")
    option("--workers", type=int, help="models trained side by side, a thread each (one a core)")
    option("--json", action="store_true", help="print a line of JSON for each claim, and nothing else")
    options = parser.parse_args(argv)
    names = options.names or [*NAMES]
    folder = Path(options.output) / options.language
    _check(options, names, folder)
    from experiments.abilities.ability import ITEMS
    from experiments.abilities.earlier import earlier_claims, judged
    from experiments.abilities.page import write_page
    from experiments.abilities.workers import cores, work
    from experiments.html.pages import finite

    abilities = {name: made(name, options.language) for name in dict.fromkeys(names)}
    jobs = {name: jobs_of(ability, options.seeds, folder) for name, ability in abilities.items()}
    seconds = work(jobs, options.language, options.workers or cores(), quiet=options.json)
    claims = collect(abilities, jobs, seconds, options.seeds)
    before, gone = earlier_claims(folder, options.language, names)
    for name, claim in before.items():
        jobs[name] = jobs_of(made(name, options.language), claim["seeds"], folder)
        claim["folders"] = [str(job.folder) for job in jobs[name]]  # it may have been moved
    report = finite({"language": options.language, "test_items": ITEMS, "claims": judged(before | claims)})
    write_page(report, {name: by_arm(of_ability) for name, of_ability in jobs.items()}, folder)
    tell(report, names, gone, folder, options.json)
    return 0


def _check(options: argparse.Namespace, names: Sequence[str], folder: Path) -> None:
    """Refuses what cannot be run, before anything is trained, and makes the folder."""
    for name in names:
        if name not in NAMES:
            raise UserError(f"abilities: no claim `{name}`: there are {', '.join(NAMES)}")
    for name in ("seeds", "workers"):
        value = getattr(options, name)
        if value is not None and value < 1:
            raise UserError(f"--{name} is {value}: give 1 or more")
    for library in ("matplotlib", *(["bm25s"] if "retrieval" in names else [])):
        if find_spec(library) is None:
            raise UserError(f"abilities: this needs {library}: pip install 'trivium[abilities]'")
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {folder} cannot be made: {error.strerror}") from error


def collect(
    abilities: Mapping[str, "Ability"],
    jobs: Mapping[str, Sequence[Job]],
    seconds: Mapping[str, float],
    seeds: int,
) -> dict[str, Any]:
    """What `abilities.json` and a line of `--json` hold of each claim, but for its verdict."""
    from experiments.abilities.arm import answers_file
    from experiments.abilities.asking import items_sha256, load
    from experiments.abilities.stories import STORIES

    findings: dict[str, Finding] = {}
    samples: dict[str, list[dict[str, Any]]] = {}
    for name, ability in abilities.items():
        runs = {(job.arm, job.seed): load(answers_file(ability, job.folder), ability) for job in jobs[name]}
        findings[name] = ability.finding(runs)
        samples[name] = [sample(ability, runs, *shown) for shown in STORIES[name].samples]
    claims = {}
    for name, finding in findings.items():
        arms = [arm.name for arm in abilities[name].arms()]
        claims[name] = {
            "ability": name,
            "seeds": seeds,
            "results": finding.results,
            "bars": {bar.name: bar_line(bar) for bar in finding.bars},
            "test": {**finding.test._asdict(), "paired": finding.test.paired._asdict()},
            "items_sha256": items_sha256(q for arm in arms for q in abilities[name].questions(arm)),
            "seconds": round(seconds[name], 1),
            "samples": samples[name],
            "folders": [str(job.folder) for job in jobs[name]],
        }
    return claims


def sample(ability: "Ability", runs: "Runs", label: str, arm: str, condition: str) -> dict[str, Any]:
    """The first test item of a condition, as the first seed's model answered it."""
    answers = runs[arm, 0][condition]
    texts = {name: ability.text(getattr(answers, field)[0]) for name, field in TEXTS.items()}
    return {"label": label, "right": bool(answers.right[0]), **texts}


def bar_line(bar: "Bar") -> dict[str, Any]:
    """A bar as JSON has it."""
    sign = "at_least" if bar.at_least else "at_most"
    value, low, high, _ = bar.estimate
    return {"value": value, "interval": [low, high], "seeds": bar.values, sign: bar.threshold, "met": bar.met}


def tell(
    report: Mapping[str, Any], names: Sequence[str], gone: Sequence[str], folder: Path, as_json: bool
) -> None:
    """Prints the verdicts of the claims that were asked for: a table, or JSON lines."""
    claims = {name: claim for name, claim in report["claims"].items() if name in names}
    if as_json:
        for claim in claims.values():
            print(json.dumps(claim, ensure_ascii=False, allow_nan=False))
        return
    from rich.console import Console
    from rich.table import Table

    table = Table("claim", "verdict", "bars", "missed")
    for name, claim in claims.items():
        bars = claim["bars"]
        missed = [f"{bar}: {line['value']:.3f}" for bar, line in bars.items() if not line["met"]]
        table.add_row(name, claim["verdict"], f"{len(bars) - len(missed)}/{len(bars)}", "; ".join(missed))
    console = Console()
    console.print(table)
    others = len(report["claims"]) - len(claims)
    beside = f", with {others} tried earlier" if others else ""
    if gone:
        told = f"{', '.join(gone)}: their models have changed since"
        print(f"left out of the page: {told}; ask for them again")
    print(f"page: {folder / 'abilities.html'}{beside}; figures: {folder / 'abilities.json'}")
