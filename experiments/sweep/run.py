"""`trivium sweep FILE`: runs a W&B sweep here, without a server; `sweep` does the same from Python."""

import argparse
import json
import secrets
import signal
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.arguments import ArgumentParser
from experiments.cli.shipped_configs import file_of, hint
from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from experiments.sweep.outcome import SweepResult
    from experiments.sweep.spec import Spec

EPILOG = """\
FILE is the YAML that `wandb sweep` reads, with all of its keys; the same file goes on working with `wandb
sweep` and `wandb agent`. One key is ours: `seeds: 3` runs each configuration with three seeds, compares the
means, and tells which configurations noise alone could explain.

Each run is a process with a folder of its own, OUTPUT/runs/0000 and so on. Ctrl+C stops all runs after a
checkpoint; the same command goes on, also after a kill: what has ended is not repeated, what was interrupted
resumes, and what has failed stays so unless --retry is given. The same command given elsewhere on a shared
folder works along. At the end there are sweep.html and sweep.png, best.yaml (for `trivium fit --config`),
runs.jsonl, and study.db, which is optuna's.

A sweep that comes with Trivium goes by its name: `trivium configs` lists them, and `trivium configs
sweeps/sft > mine.yaml` makes one to change. What follows `--` is given to each run, after all that the sweep
gives it.

examples:
  trivium sweep learning_rate
  trivium sweep learning_rate -- --trainer.max_steps=100
  trivium sweep my.yaml --workers 2 --output runs/sweeps/mine --json
"""
SWEEPS, SETTINGS = Path("runs/sweeps"), "sweep.json"
FREE = ("run_cap", "description", "name", "project", "entity", "controller", "apiVersion", "kind")
"""keys that may change while a sweep lasts"""


def main(argv: list[str]) -> int:
    """Runs `trivium sweep`; returns the exit code: 130 after Ctrl+C, 143 after SIGTERM,
    1 where every run has failed.

    Raises:
        UserError: a mistake in the YAML or the command line, or runs that fail again and again.
    """
    own, for_runs = (argv[: argv.index("--")], argv[argv.index("--") + 1 :]) if "--" in argv else (argv, [])
    options = _parser().parse_args(own)
    from experiments.sweep.spec import read_spec

    file = Path(file_of(options.file, "sweeps"))
    if not file.exists():
        raise UserError(f"sweep: there is no file {file}: {hint(options.file, 'sweeps')}")
    spec = _with_options(read_spec(file), for_runs)
    output = options.output or SWEEPS / folder_name(spec.name)
    quiet, retry = options.json, options.retry
    result, interrupted = run_sweep(spec, output, options.workers, options.json, quiet=quiet, retry=retry)
    if not options.json:
        from rich.console import Console

        from experiments.sweep.table import as_table

        Console().print(as_table(result))
        print(f"written: {result.page}" + (f", {result.best_config}" if result.best else ""))
    if interrupted is not None:
        print(f"trivium: stopped; the same command goes on in {output}", file=sys.stderr)
        return 128 + interrupted
    if {run["state"] for run in result.runs()} == {"failed"}:
        print(f"trivium: every run has failed; what each one said lies in {output}/runs", file=sys.stderr)
        return 1
    return 0


def sweep(
    document: Mapping[str, Any] | str | Path,
    output: str | Path,
    workers: int = 1,
    quiet: bool = False,
    retry: bool = False,
) -> "SweepResult":
    """Runs a sweep from Python, and gives its result, which shows itself in a notebook.

    Args:
        document: what the YAML of a sweep holds, or its file.
        output: folder of the sweep; one that was begun goes on.
        workers: runs at a time.
        quiet: without lines about how it goes.
        retry: runs that have failed are tried again.

    Raises:
        UserError: a mistake in the document, or runs that fail again and again.
        KeyboardInterrupt: the sweep was interrupted; the same call goes on.
    """
    from experiments.sweep.spec import read_spec, spec_of

    if isinstance(document, Mapping):
        spec = spec_of(document, "sweep", Path(output).name)
    else:
        spec = read_spec(Path(document))
    result, interrupted = run_sweep(spec, Path(output), workers, False, quiet=quiet, retry=retry)
    if interrupted is not None:
        raise KeyboardInterrupt(signal.Signals(interrupted).name)
    return result


def run_sweep(
    spec: "Spec", output: Path, workers: int, as_json: bool, quiet: bool, retry: bool
) -> tuple["SweepResult", int | None]:
    """Runs a sweep, and writes its results; the second is the signal that interrupted it, if one did."""
    from experiments.sweep.command import command_errors
    from experiments.sweep.parameters import exponents

    if workers < 1:
        raise UserError(f"--workers is {workers}: give 1 or more")
    if errors := command_errors(spec.command, spec.program):
        raise UserError("\n".join(errors))
    try:
        import optuna  # noqa: F401
    except ImportError as error:
        raise UserError("sweep needs optuna: pip install 'trivium[sweep]'") from error
    identity = _settings(spec, output)
    from experiments.sweep.best import write_best
    from experiments.sweep.outcome import result_of, write_results
    from experiments.sweep.page import write_page
    from experiments.sweep.picture import draw
    from experiments.sweep.ranking import as_line
    from experiments.sweep.show import Display
    from experiments.sweep.study import ENDED, Study
    from experiments.sweep.worker import Worker

    study = Study(output, spec)
    if retry:
        study.retry()
    if as_json:  # those of earlier commands: the lines are always all of them
        for each in study.configurations():
            for run in each.runs:
                if run.state in ENDED:
                    print(json.dumps(as_line(run.name, run.state, each.values, run.metric), default=str))
    with Display(spec, workers, as_json, quiet) as display:
        for line in filter(None, map(exponents, spec.parameters)):
            display.note(line)
        try:
            outcome = Worker(study, workers, display, identity).work()
        finally:
            result = result_of(spec, output, study.configurations())
            write_results(result)
            write_best(result)
            write_page(result)
            draw(result, result.picture)
        if outcome.elsewhere:
            display.note(f"other commands are still at {outcome.elsewhere} runs")
    return result, outcome.interrupted


def _with_options(spec: "Spec", words: list[str]) -> "Spec":
    """A sweep each of whose runs is given some more words.

    Raises:
        UserError: they set what the sweep itself sets.
    """
    own = {each.name for each in spec.parameters} | {"run"}
    for word in words:
        name = word.partition("=")[0].removeprefix("--")
        if word.startswith("--") and name in own:
            raise UserError(f"{word}: the sweep gives each run its own {name}: leave it out after `--`")
    if not words:
        return spec
    command = (*spec.command, *words)
    return spec._replace(command=command, document={**spec.document, "command": list(command)})


def _settings(spec: "Spec", output: Path) -> str:
    """The sweep's own id, for its W&B runs; made where the folder is new.

    Raises:
        UserError: the folder holds another sweep.
    """
    fixed = {key: value for key, value in spec.document.items() if key not in FREE}
    file = output / SETTINGS
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(
            f"output: {output} cannot be made ({error.strerror}): give another --output"
        ) from error
    try:
        with open(file, "x", encoding="utf-8") as new:  # one of several commands makes it
            new.write(json.dumps({"id": secrets.token_hex(4), "sweep": fixed}, default=str))
    except FileExistsError:
        pass
    except OSError as error:
        raise UserError(
            f"output: {output} cannot be written to ({error.strerror}): give another --output"
        ) from error
    before = json.loads(file.read_text(encoding="utf-8"))
    now = json.loads(json.dumps(fixed, default=str))
    changed = [key for key in sorted({*before["sweep"], *now}) if before["sweep"].get(key) != now.get(key)]
    if changed:
        raise UserError(
            f"output: {output} holds a sweep with other {', '.join(changed)}: give another --output"
        )
    return before["id"]


def folder_name(name: str) -> str:
    """The folder of a sweep of that name in `runs/sweeps`."""
    return "".join(letter if letter.isalnum() or letter in "._-" else "-" for letter in name) or "sweep"


def _parser() -> argparse.ArgumentParser:
    parser = ArgumentParser(
        prog="trivium sweep",
        usage="trivium sweep FILE [--output DIR] [--workers N] [--retry] [--json] [-- OPTIONS OF EACH RUN]",
        description="Runs a W&B sweep on this machine, without a server.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument(
        "file", metavar="FILE", help="YAML of the sweep, as `wandb sweep` reads it, or a shipped one's name"
    )
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the sweep (runs/sweeps/NAME)")
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="runs at a time (1)")
    parser.add_argument("--retry", action="store_true", help="try runs that have failed again")
    parser.add_argument("--json", action="store_true", help="print only a line of JSON for each run")
    return parser
