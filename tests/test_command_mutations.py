"""Hundreds of files and arguments of the newest commands that went wrong somewhere: each is taken, or refused
in lines that name the field or the file, with exit code 2 and without a trace. The same ones every time."""

import json
import shutil
from types import SimpleNamespace

import pytest
import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

from datamodules.errors import UserError as DataError
from datamodules.layouts.comparison import comparison
from datamodules.layouts.joined import Joined
from datamodules.layouts.kinds import kind_of
from datamodules.layouts.reader import RowReader
from experiments.cli.program import main
from experiments.cli.user_errors import exit_code_of
from experiments.evaluation.yaml_task import YamlTask
from experiments.scaling.family import QUICK, read_family
from experiments.scaling.points import read_points
from experiments.sweep.sampling import next_configuration
from experiments.sweep.spec import read_spec
from experiments.web.access import access_of
from experiments.web.rank.prompts import read_prompts, read_replies
from tests.mutations import common, damaged, mutated
from tests.ranking import rank, session
from tests.test_dataset_layouts import INSTRUCTIONS, PREFERENCES

ROWS = [row for row, *_ in (*INSTRUCTIONS.values(), *PREFERENCES.values())]
ROWS += [
    {"prompt": "Hi", "completion": "Yo", "label": True},
    {"message_id": "a", "parent_id": None, "role": "prompter", "text": "Hi"},
]


@settings(common, max_examples=250)
@given(data=st.data())
def test_a_mutated_row_is_read_or_refused_in_one_line(data):
    for row in mutated(data.draw, [data.draw(st.sampled_from(ROWS))]):
        if not isinstance(row, dict):
            continue
        kind_of(row)
        lines = []
        for kind in ("instructions", "preferences", "prompts"):
            joined = Joined(kind)
            try:
                layout = RowReader(kind).read(row)
                assert "\n" not in layout.told
                if kind == "preferences":
                    comparison(layout.row)
                joined.takes(row)
            except DataError as error:
                lines.append(str(error))
            list(joined.rows())
        assert not any("\n" in line for line in lines)


SWEEPS = [
    {
        "program": "trivium",
        "method": "bayes",
        "metric": {"name": "val/loss", "goal": "minimize", "target": 0.1, "impute": "worst"},
        "run_cap": 5,
        "seeds": 2,
        "early_terminate": {"type": "hyperband", "min_iter": 3, "eta": 3, "s": 2},
        "parameters": {
            "a": {"distribution": "log_uniform_values", "min": 1e-5, "max": 1e-2},
            "b": {"values": [1, 2, 3]},
            "n": {"parameters": {"x": {"values": ["p", "q"], "probabilities": [0.3, 0.7]}}},
        },
        "command": ["${program}", "fit", "${args}"],
    },
    {
        "program": "t.py",
        "method": "grid",
        "parameters": {
            "q": {"distribution": "q_uniform", "min": 0, "max": 2, "q": 0.5},
            "i": {"distribution": "int_uniform", "min": 1, "max": 3},
            "c": {"value": None},
        },
    },
    {
        "program": "t.py",
        "method": "random",
        "parameters": {
            "n": {"distribution": "q_normal", "mu": 0, "sigma": 1, "q": 0.1},
            "b": {"distribution": "beta", "a": 1, "b": 2},
            "u": {"distribution": "q_log_uniform", "min": 0, "max": 3, "q": 1},
        },
    },
]
TASKS = [
    {"rows": [{"q": "1", "a": "x"}], "template": "Is {q}?", "answer": "{a}", "metric": "chrf"},
    {
        "rows": [{"q": "1", "a": "x", "w": "y"}],
        "examples": [{"q": "2", "a": "x", "w": "y"}],
        "template": "Is {q}?",
        "answer": "{a}",
        "metric": "choice",
        "choices": ["{a}", "{w}"],
        "max_new_tokens": 4,
        "instruction": False,
    },
]
FAMILY = {**yaml.safe_load(QUICK.read_text("utf-8")), "stage": str(QUICK.parent.parent / "pretrain.yaml")}
YAMLS = {
    "sweep": (SWEEPS, lambda file: next_configuration(read_spec(file), [], 0)),
    "task": (TASKS, lambda file: YamlTask(str(file)).prompt({"q": "1", "a": "x", "w": "y"})),
    "family": ([FAMILY], read_family),
}


def refused(call, file, capsys):
    """Makes the call; the lines with which it is refused, none of them without the file or an option."""
    capsys.readouterr()
    code = exit_code_of(lambda: code if type(code := call()) is int else 0)
    err = capsys.readouterr().err
    assert "Traceback" not in err, err
    lines = [line for line in err.splitlines() if line.startswith("trivium: ")]
    assert code == (2 if lines else 0), err
    assert all(str(file) in line or "--" in line for line in lines), lines
    return lines


@pytest.mark.parametrize("kind", YAMLS)
def test_a_mutated_yaml_is_taken_or_refused_by_file(kind, tmp_path, capsys):
    whole, read = YAMLS[kind]
    file = tmp_path / "mutated.yaml"
    for document in whole:
        file.write_text(yaml.safe_dump(document))
        assert not refused(lambda: read(file), file, capsys)

    @settings(common, max_examples=60)
    @given(data=st.data())
    def sweep(data):
        text = yaml.safe_dump(mutated(data.draw, data.draw(st.sampled_from(whole))), allow_unicode=True)
        file.write_bytes(damaged(data.draw, text.encode(errors="ignore")))
        refused(lambda: read(file), file, capsys)

    sweep()


WRONG = {
    "a date that cannot be": "name: 2001-99-99\n",
    "a list as a key": "? [a, b]\n: 3\n",
    "twice": "name: a\nname: b\n",
    "another encoding": "name: é\n".encode("cp1252"),
    "no mapping": "- a\n",
    "empty": "",
    "a tab": "name:\n\ta: b\n",
    "deep": "a: " + "[" * 5000,
}


@pytest.mark.parametrize("name", WRONG)
def test_what_is_no_yaml_is_one_line_for_every_command(name, tmp_path, capsys):
    file = tmp_path / "x.yaml"
    file.write_bytes(WRONG[name] if isinstance(WRONG[name], bytes) else WRONG[name].encode())
    for _, read in YAMLS.values():
        assert len(refused(lambda read=read: read(file), file, capsys)) == 1
    missing = "x" * 300
    assert len(refused(lambda: main(["sweep", missing]), missing, capsys)) == 1


PROMPTS = [
    {"instruction": "Write.", "reply_prefix": "the film"},
    {"messages": [{"role": "user", "content": "Hi"}]},
]
REPLIES = [
    {"instruction": "W.", "replies": ["a", "b", "c"], "models": ["x", "y", "x"]},
    {"prompt": "W.", "responses": ["a", "b"], "ratings": [1, 2]},
]


@settings(common, max_examples=60)
@given(data=st.data())
def test_mutated_prompts_and_replies_to_rank_are_read_or_refused(tmp_path, capsys, data):
    read, rows = data.draw(st.sampled_from([(read_prompts, PROMPTS), (read_replies, REPLIES)]))
    file = tmp_path / "mutated.jsonl"
    lines = "".join(json.dumps(row) + "\n" for row in mutated(data.draw, rows))
    file.write_bytes(damaged(data.draw, lines.encode()))
    refused(lambda: read(str(file)), file, capsys)


def test_a_mutated_file_of_answers_is_reported_or_refused(tmp_path, capsys):
    people = session(tmp_path, 2, overlap=2)
    for person, order in (("ann", "abcd"), ("ann", "bacd"), ("bob", "cd=ab"), ("bob", "dcab")):
        rank(people, person, order)
    answers = [json.loads(line) for line in (tmp_path / "ranks.jsonl").read_text().splitlines()]
    file = tmp_path / "mutated.jsonl"

    @settings(common, max_examples=40)
    @given(data=st.data())
    def sweep(data):
        lines = "".join(json.dumps(row) + "\n" for row in mutated(data.draw, answers))
        file.write_bytes(damaged(data.draw, lines.encode()))
        refused(lambda: main(["rank", "report", str(file), "--json"]), file, capsys)

    sweep()


@settings(common, max_examples=60)
@given(data=st.data())
def test_mutated_points_of_a_law_are_read_or_refused(tmp_path, capsys, data):
    cells = "parameters,tokens,loss\n" + "".join(f"{n},{20 * n},3.{n}\n" for n in range(1, 8))
    file = tmp_path / "mutated.csv"
    cell = str(data.draw(st.one_of(st.floats(), st.text(max_size=9), st.sampled_from(["1e999", "-1", '"']))))
    place = data.draw(st.integers(0, cells.count(",") - 1))
    parts = cells.split(",")
    parts[place] = cell
    file.write_bytes(damaged(data.draw, ",".join(parts).encode(errors="replace")))
    refused(lambda: read_points(file), file, capsys)


@pytest.mark.parametrize(
    "changes",
    [
        {"port": 70000},
        {"port": -1},
        {"host": " "},
        {"token": "é"},
        {"token": ""},
        {"allow_host": ["http://x"]},
        {"allow_origin": ["x"]},
        {"allow_origin": ["https://x/y"]},
    ],
)
def test_what_a_server_cannot_be_is_refused_by_option(capsys, changes):
    given = {
        "host": "127.0.0.1",
        "port": 0,
        "token": None,
        "allow_host": [],
        "allow_origin": [],
        "open": False,
    }
    assert len(refused(lambda: access_of(SimpleNamespace(**given | changes)), "--", capsys)) == 1


COMMANDS = [
    ["chat", "nowhere", "--prompt", "Hi"],
    ["chat", "x" * 300, "--prompt", "Hi"],
    ["chat", "FILE", "--prompt", "Hi"],
    ["chat", "nowhere", "--temperature", "nan"],
    ["chat", "nowhere", "--max-new-tokens", "0"],
    ["serve", "nowhere"],
    ["serve", "FILE", "--waiting", "-1"],
    ["serve", "a=nowhere", "--save", "FOLDER"],
    ["rank", "--prompts", "FILE", "--models", "nowhere"],
    ["rank", "--replies", "FILE"],
    ["rank", "report", "FOLDER"],
    ["rank", "report", "FILE"],
    ["evaluate", "FOLDER", "--tasks", "maths"],
    ["evaluate", "FOLDER", "--shots", "1e9"],
    ["evaluate", "=x"],
    ["evaluate", "--compare", "--output", "FILE/x"],
    ["configs", "x" * 300],
    ["configs", "../sft"],
    ["scaling", "fit", "FOLDER"],
    ["scaling", "predict", "FILE", "--fit", "FILE"],
    ["scaling", "run", "FOLDER"],
    ["sweep", "FOLDER"],
    ["sweep", "FILE", "--workers", "0"],
    ["init", "FILE", "--data", "FILE"],
    ["init", "FOLDER/new", "--data", "nowhere"],
    ["init", "FOLDER/new", "--data", "FILE", "--encoding", ""],
    ["data", "convert", "FILE", "--output", "FOLDER/new", "--encoding", ""],
    ["data", "contamination", "FILE", "--against", "x" * 300],
]


@pytest.mark.parametrize("command", COMMANDS, ids=lambda command: " ".join(command)[:60])
def test_a_command_line_that_cannot_be_is_refused_in_one_line(command, tmp_path, capsys):
    file, folder = tmp_path / "file.jsonl", tmp_path / "folder"
    file.write_bytes(b"\0\xff{\n")
    folder.mkdir()
    words = [word.replace("FILE", str(file)).replace("FOLDER", str(folder)) for word in command]
    assert exit_code_of(lambda: main(words)) == 2
    err = capsys.readouterr().err
    assert "Traceback" not in err
    assert [line for line in err.splitlines() if line.startswith("trivium: ")]
    assert list(folder.iterdir()) == []


def test_mutated_data_files_are_begun_with_or_refused(tmp_path, capsys, tiny_tokenizer, tiny_config):
    """The files; what is in them, `test_a_mutated_row_is_read_or_refused_in_one_line` and others try."""
    model, file = str(tmp_path / "model"), tmp_path / "mutated.jsonl"
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    config = LlamaConfig(**tiny_config, vocab_size=len(tokenizer), pad_token_id=tokenizer.pad_token_id)
    LlamaForCausalLM(config).save_pretrained(model)
    tokenizer.save_pretrained(model)

    @settings(common, max_examples=6)
    @given(data=st.data())
    def sweep(data):
        row = data.draw(st.sampled_from(ROWS[:-1]))
        lines = "".join(json.dumps(each) + "\n" for each in [*mutated(data.draw, [row]), row, row])
        file.write_bytes(damaged(data.draw, lines.encode()))
        shutil.rmtree(tmp_path / "run", ignore_errors=True)
        words = ["init", str(tmp_path / "run"), "--data", str(file), "--model", model, "--reward", model]
        if refused(lambda: main(words), file, capsys):
            assert not (tmp_path / "run").exists()

    sweep()
