"""The notebooks, a question each, and how they are run: `python -m experiments.notebooks` runs them all, each
in a folder of its own, and keeps what they show."""

import os
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

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


def main(names: Sequence[str]) -> None:
    """Runs notebooks, all of them where none is named, and writes what they show into them."""
    import nbformat

    for name in names or QUESTIONS:
        with tempfile.TemporaryDirectory() as folder:
            notebook = executed(name, folder)
        notebook.metadata.language_info = {"name": "python"}  # not the version that it was run by
        nbformat.write(notebook, FOLDER / f"{name}.ipynb")
        print(f"{name}.ipynb is written", file=sys.stderr)
