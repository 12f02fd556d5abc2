"""The notebooks: each runs whole in any folder, with what its text claims asserted in it, and shows what it
had shown when it was stored."""

import os

import nbformat
import pytest

from experiments.cli.user_errors import exit_code_of
from experiments.notebooks import FOLDER, QUESTIONS, executed, main

WIDTH = 100  # characters: wider code needs a scroll bar on most screens
SECRETS = (os.path.expanduser("~/"), str(FOLDER.parent.parent), "/tmp/", "/home/")


def stored(name):
    return nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)


def shown(notebook):
    """What its cells have shown, as a text; pictures left out."""
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert not any(output.output_type == "error" for output in outputs)
    texts = [output.get("text", "") for output in outputs]
    data = [output.get("data", {}) for output in outputs]
    return "\n".join(
        [*texts, *(str(value) for each in data for kind, value in each.items() if kind[:5] == "text/")]
    )


def pictures(notebook):
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    return sum("image/png" in output.get("data", {}) for output in outputs)


@pytest.mark.slow
@pytest.mark.usefixtures("warm_python")
@pytest.mark.parametrize("name", QUESTIONS)
def test_a_notebook_runs_from_any_folder_and_what_it_says_holds(name, tmp_path, monkeypatch):
    monkeypatch.setenv("MPLBACKEND", "module://matplotlib_inline.backend_inline")  # as a cold kernel sets it
    notebook = executed(name, str(tmp_path))
    assert pictures(notebook) == pictures(stored(name)) > 0
    assert list(tmp_path.iterdir()) == []  # what it writes is elsewhere


@pytest.mark.parametrize("name", QUESTIONS)
def test_a_stored_notebook_shows_its_results_and_no_machine(name):
    notebook = stored(name)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    text = shown(notebook)
    assert text.strip()
    assert [secret for secret in SECRETS if secret in text] == []
    assert "Warning" not in text
    assert "<script>" not in text
    assert notebook.cells[0].source.startswith("# ")
    assert "What next" in notebook.cells[-1].source


@pytest.mark.parametrize("name", QUESTIONS)
def test_no_line_of_code_is_wider_than_a_screen(name):
    code = [cell.source for cell in stored(name).cells if cell.cell_type == "code"]
    assert [line for source in code for line in source.splitlines() if len(line) > WIDTH] == []


def test_every_notebook_has_a_question():
    assert {file.stem for file in FOLDER.glob("*.ipynb")} == set(QUESTIONS)


def test_notebooks_are_copied_as_they_are(tmp_path):
    assert main(["--copy", "--output", str(tmp_path / "mine"), "inside_ppo", "change_a_loss"]) == 0
    copies = {file.name: file.read_bytes() for file in (tmp_path / "mine").iterdir()}
    assert copies == {
        name: (FOLDER / name).read_bytes() for name in ("inside_ppo.ipynb", "change_a_loss.ipynb")
    }


@pytest.mark.parametrize(
    ("line", "told"),
    [
        ("inside_pop", "there is no notebook inside_pop: give what_my_data_becomes, change_a_loss, "),
        ("--copy", "--copy: give the folder to copy to, as --output DIR"),
        (f"inside_ppo --output {__file__}", f"--output: {__file__} cannot be made: File exists"),
    ],
)
def test_a_mistake_about_notebooks_is_one_line(capsys, line, told):
    assert exit_code_of(lambda: main(line.split())) == 2
    (said,) = capsys.readouterr().err.splitlines()
    assert said.startswith(f"trivium: {told}")
