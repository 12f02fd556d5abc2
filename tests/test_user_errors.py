"""A user's mistake is one line and exit code 2; a bug, whatever its type, keeps its trace, asks for a report
and is exit code 1."""

import numpy as np
import pytest

import strategies
from datamodules.rendering.tokenizer import load_tokenizer
from experiments.cli.program import main
from experiments.cli.user_errors import REPORT, UserError, exit_code_of, tell
from experiments.data.contamination import Index, contamination
from experiments.distributed.failure import failure_of
from experiments.quickstart.stages import trivium
from modules.hf_load import new_causal_lm

BUGS = {
    "a number that is none": (lambda: int("abc"), "ValueError: invalid literal for int"),
    "lists of two lengths": (lambda: list(zip([1], [1, 2], strict=True)), "ValueError: zip() argument 2"),
    "a key that is not there": (lambda: {}["key"], "KeyError: 'key'"),
    "numpy's, out of our own code": (lambda: Index([]), "ValueError: need at least one array"),
    "numpy's own": (lambda: np.ones(2) + np.ones(3), "ValueError: operands could not be broadcast"),
}
MISTAKES = {
    "modules": (lambda: new_causal_lm({"model_type": "lama"}, 50, {}), "model.config: `model_type: lama`"),
    "datamodules": (lambda: load_tokenizer("nowhere"), "data.tokenizer: nowhere is no directory"),
    "strategies": (lambda: strategies.deepspeed(1, "parameters"), "trainer.strategy: offload is"),
    "experiments": (lambda: contamination(["a"], ["b"], ngram=0), "--ngram is 0"),
}


def test_nothing_to_tell_is_no_line(capsys):
    """As a rank has nothing of its own to say where another one ended it."""
    tell("")
    tell("a\n\n  b\n")
    assert capsys.readouterr().err == "trivium: a\n  b\n"


@pytest.mark.parametrize(("bug", "text"), BUGS.values(), ids=BUGS)
@pytest.mark.parametrize("command", ["chat", "data inspect"])
def test_a_bug_keeps_its_trace_and_asks_for_a_report(command, bug, text, capsys, monkeypatch):
    file = {"chat": "experiments.commands.chat", "data inspect": "experiments.data.inspect"}[command]
    monkeypatch.setattr(f"{file}.main", lambda argv: bug())
    assert main([*command.split(), "x"]) == 1
    lines = capsys.readouterr().err.splitlines()
    assert lines[0] == "Traceback (most recent call last):"
    assert lines[-2].startswith(text)
    assert lines[-1] == f"trivium: {REPORT}"


@pytest.mark.parametrize(("mistake", "text"), MISTAKES.values(), ids=MISTAKES)
def test_a_mistake_is_one_line_whichever_folder_tells_it(mistake, text, capsys):
    assert exit_code_of(mistake) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith(f"trivium: {text}")


def test_a_rank_tells_a_bug_with_its_number_and_asks_for_a_report():
    failure = failure_of(KeyError("key"), rank=1)
    assert failure.text.splitlines() == ["rank 1: KeyError: 'key'", REPORT]
    assert failure.code == 1
    assert failure_of(UserError("model.lr is 0: give more"), rank=0).text == "model.lr is 0: give more"
    assert failure_of(UserError("model.lr is 0: give more"), rank=1).code == 2


def test_the_quickstart_calls_only_a_refused_command_refused(monkeypatch):
    monkeypatch.setattr("experiments.cli.program.main", lambda argv: 2)
    with pytest.raises(UserError, match="`trivium fit` was refused"):
        trivium("fit")
    monkeypatch.setattr("experiments.cli.program.main", lambda argv: 1)
    with pytest.raises(SystemExit) as end:
        trivium("fit")
    assert end.value.code == 1


@pytest.mark.parametrize(
    ("said", "line"),
    [
        ("no `a\x1b[2J\u2028b`", r"no `a\x1b[2J\u2028b`"),  # one line, which clears no terminal
        ("`\u202ea` and `b`", r"`\u202ea` and `b`"),
        (f"no `{'a ' * 300}`, " + "but a text " * 50 + "and `b`", None),
        ("x" * 401 + " is no class", "x" * 200 + "… is no class"),
        ("x" * 400 + " is no class", "x" * 400 + " is no class"),
        ("电影 é 👍🏽", "电影 é 👍🏽"),
    ],
)
def test_what_a_line_repeats_of_a_file_neither_fills_nor_moves_the_terminal(said, line, capsys):
    def refuse():
        raise UserError(said)

    assert exit_code_of(refuse) == 2
    expected = line or f"no `{'a ' * 100}…`, " + "but a text " * 50 + "and `b`"
    assert capsys.readouterr().err == f"trivium: {expected}\n"
