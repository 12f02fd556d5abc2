"""The notebooks, a question each, and how they are run: `python -m experiments.notebooks` runs them all, each
in a folder of its own, and keeps what they show."""

import argparse
import os
import shutil
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError

FOLDER = Path(__file__).parent
QUESTIONS = {
    "what_my_data_becomes": "what do my rows become: receipt, batch, mask, packing?",
    "change_a_loss": "what happens when I change a loss?",
    "teach_to_answer": "how does a model learn to answer?",
    "rank_and_reward": "what does a reward model learn from rankings, and from their flaws?",
    "inside_ppo": "what is in a PPO iteration, and how do I give another reward?",
    "mixture_and_scaling": "which mixture, and how large a model?",
}
"""notebook → the question that it answers, in the order to read them"""
SECONDS = 600  # of a cell at most, on a machine that does much else


def executed(name: str, folder: str) -> "NotebookNode":  # type: ignore[name-defined]  # noqa: F821
    """The notebook with what it shows, run from the first cell to the last by this interpreter.

    Args:
        name: without `.ipynb`.
        folder: where it runs; any will do.

    Raises:
        CellExecutionError: of nbclient, where a cell fails.
    """
    import nbformat
    from nbclient import NotebookClient

    notebook = nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    root = str(FOLDER.parent.parent)
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))  # without an installation too
    client = NotebookClient(notebook, timeout=SECONDS, record_timing=False, coalesce_streams=True)
    client.resources = {"metadata": {"path": folder}}
    return client.execute(env={**os.environ, "PYTHONPATH": path, "OMP_NUM_THREADS": "1"})


def main(argv: Sequence[str]) -> int:
    """Runs notebooks, all of them where none is named, and writes what they show into them, or into copies.

    Raises:
        UserError: there is no such notebook, or the folder cannot be written to.
    """
    parser = ArgumentParser(
        prog="python -m experiments.notebooks",
        description="Runs notebooks, each in a folder of its own, and keeps what they show.",
        epilog="\n".join(f"{name}: {question}" for name, question in QUESTIONS.items()),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("names", nargs="*", metavar="NAME", help="without .ipynb (all of them)")
    parser.add_argument("--output", type=Path, metavar="DIR", help="folder of the results (their own)")
    parser.add_argument("--copy", action="store_true", help="copy them to --output as they are, run none")
    options = parser.parse_args(argv)
    for name in options.names:
        if name not in QUESTIONS:
            parser.error(f"there is no notebook {name}: give {', '.join(QUESTIONS)}")
    if options.copy and not options.output:
        parser.error("--copy: give the folder to copy to, as --output DIR")
    output = options.output or FOLDER
    try:
        output.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"--output: {output} cannot be made: {error.strerror}") from error
    for name in options.names or QUESTIONS:
        file = output / f"{name}.ipynb"
        if options.copy:
            shutil.copyfile(FOLDER / file.name, file)
        else:
            _write(name, file)
        print(f"{file if options.output else file.name} is written", file=sys.stderr)
    return 0


def _write(name: str, file: Path) -> None:
    try:
        import nbformat
        from nbclient.exceptions import CellExecutionError
    except ImportError as error:
        raise UserError("notebooks need nbclient: pip install 'trivium[notebooks]'") from error
    with tempfile.TemporaryDirectory() as folder:
        try:
            notebook = executed(name, folder)
        except CellExecutionError as error:
            raise UserError(f"{name}.ipynb: a cell has failed, nothing is written: {error}") from error
    notebook.metadata.language_info = {"name": "python"}  # not the version that it was run by
    nbformat.write(notebook, file)
