"""Rows, files and checkpoints that are wrong in ways seen in the field: told in one line, or dropped and
counted."""

import json
import shutil
from pathlib import Path

import pytest

from experiments.cli import main

TURN = {"task": "x", "language": "en"}
GOOD = {"instruction": "Write.", "output": "a good film", **TURN}


def messages(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns], **TURN}


CHAT = messages(("user", "Write."), ("assistant", "a good film"))


@pytest.fixture
def trivium(tiny_stages, tmp_path, capsys):
    """Runs `fit` of a stage with overrides; gives the exit code and the lines that begin with `trivium:`."""

    def run(stage: str, *overrides: str) -> tuple[int, list[str]]:
        capsys.readouterr()
        line = [
            *tiny_stages.stage(stage),
            "--run",
            str(tmp_path / "run"),
            "--trainer.max_steps=1",
            *overrides,
        ]
        code = main([*line, "--trainer.limit_val_batches=0"])
        return code, [line for line in capsys.readouterr().err.splitlines() if line.startswith("trivium: ")]

    return run


def receipt(tmp_path: Path) -> dict:
    return json.loads((tmp_path / "run" / "receipt.json").read_text())[0]


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({**GOOD, "output": None}, "no `output`"),
        ({**GOOD, "output": 3}, "`output` is int, not text"),
        ({**GOOD, "instruction": ["Write."]}, "`instruction` is list, not text"),
        ({**GOOD, "input": 3}, "`input` is int, not text"),
    ],
    ids=["null", "a number", "a list", "a number where text is optional"],
)
def test_a_field_of_another_type_is_refused_with_file_and_row(trivium, rows, tmp_path, row, message):
    file = rows(tmp_path / "x.jsonl", [row])
    code, lines = trivium("sft", f"--data.init_args.train={file}")
    assert code == 2
    assert lines == [f"trivium: data.train: {file}, row 1: {message}" + lines[0].partition(message)[2]]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (messages(("user", "Write.")), "no assistant turn"),
        (messages(("robot", "beep"), ("assistant", "a")), "robot"),
        (messages(("user", "Write."), ("assistant", " ")), "empty"),
        ({"messages": None, **TURN}, "messages"),
        (
            {"messages": [{"role": "user", "content": None}, {"role": "assistant", "content": "a"}], **TURN},
            "content",
        ),
    ],
    ids=["no reply", "unknown role", "empty reply", "no messages", "no content"],
)
def test_a_chat_that_cannot_be_used_is_dropped_and_counted_or_refused(trivium, rows, tmp_path, row, reason):
    """Missing fields may be refused (with the row's number) or dropped; never a trace, never trained on."""
    file = rows(tmp_path / "x.jsonl", [*[CHAT] * 40, row])
    overrides = [f"--data.init_args.train={file}", "--data.init_args.val=null"]
    code, lines = trivium("sft", *overrides, "--data.init_args.template=datamodules.ChatTemplate")
    if code == 2:
        assert "row 41" in lines[0]
        assert reason in lines[0]
    else:
        assert receipt(tmp_path)["kept"] == 40
        ((told, count),) = receipt(tmp_path)["dropped"].items()
        assert reason in told
        assert count == 1


def test_preferences_drop_what_has_no_pair_and_count_it(trivium, rows, tmp_path):
    good = {"instruction": "Write.", "replies": ["good", "bad"], "ratings": [2.0, 1.0]}
    wrong = [
        {**good, "ratings": [1.0, 1.0]},  # a tie
        {**good, "replies": ["same", "same"]},  # chosen == rejected
        {**good, "replies": ["good", " "]},  # one of two is blank
        {**good, "instruction": " "},
    ]
    file = rows(tmp_path / "x.jsonl", [good] * 16 + wrong)
    code, _ = trivium("reward", f"--data.init_args.train={file}", "--data.init_args.val=null")
    assert code == 0
    assert receipt(tmp_path)["kept"] == 16
    dropped = receipt(tmp_path)["dropped"]
    assert dropped.pop("empty `instruction`") == 1
    ((reason, count),) = dropped.items()
    assert "no two different replies of different rating" in reason
    assert count == 3


def test_ratings_that_do_not_match_the_replies_are_refused_with_the_row(trivium, rows, tmp_path):
    file = rows(tmp_path / "x.jsonl", [{"instruction": "Write.", "replies": ["a", "b"], "ratings": [1.0]}])
    code, lines = trivium("reward", f"--data.init_args.train={file}", "--data.init_args.val=null")
    assert code == 2
    assert "row 1: 2 `replies` but 1 `ratings`" in lines[0]


def test_a_file_that_is_not_utf_8_is_named_with_its_line(trivium, tmp_path):
    file = tmp_path / "x.jsonl"
    line = json.dumps(GOOD).encode()
    file.write_bytes(line + b"\n" + line.replace(b"good", b"caf\xe9") + b"\n")
    code, lines = trivium("sft", f"--data.init_args.train={file}")
    assert code == 2
    assert f"{file}:2 is not UTF-8" in lines[0]


def test_a_byte_order_mark_is_no_part_of_the_data(trivium, tmp_path):
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"\xef\xbb\xbf" + (json.dumps(GOOD) + "\n").encode() * 40)
    assert trivium("sft", f"--data.init_args.train={file}", "--data.init_args.val=null")[0] == 0
    assert receipt(tmp_path)["kept"] == 40


def test_an_empty_file_and_an_empty_glob_are_refused(trivium, tmp_path):
    (tmp_path / "x.jsonl").write_text("")
    assert trivium("sft", f"--data.init_args.train={tmp_path}/x.jsonl")[1] == [
        f"trivium: data.train: {tmp_path}/x.jsonl is empty"
    ]
    assert trivium("sft", f"--data.init_args.train={tmp_path}/y*.jsonl")[1] == [
        f"trivium: data.train: {tmp_path}/y*.jsonl matches no file"
    ]


@pytest.mark.parametrize("wrong", ["missing", "folder", "cut off"])
def test_a_checkpoint_that_cannot_be_read_is_refused_by_its_path(trivium, tiny_stages, tmp_path, wrong):
    whole = tiny_stages.out / "sft" / "checkpoints" / "last.ckpt"
    path = {"missing": tmp_path / "none.ckpt", "folder": whole.parent, "cut off": tmp_path / "cut.ckpt"}[
        wrong
    ]
    if wrong == "cut off":
        path.write_bytes(whole.read_bytes()[:5000])
    code, lines = trivium("sft", f"--ckpt_path={path}")
    assert code == 2
    assert len(lines) == 1
    assert str(path) in lines[0]


@pytest.mark.parametrize("wrong", ["cut off", "missing"])
def test_weights_that_cannot_be_read_are_refused_by_their_path(trivium, tiny_stages, tmp_path, wrong):
    folder = tmp_path / "export"
    shutil.copytree(tiny_stages.export("pretrain"), folder)
    file = folder / "model.safetensors"
    if wrong == "missing":
        file.unlink()
    else:
        file.write_bytes(file.read_bytes()[:-1000])
    code, lines = trivium("sft", f"--model.init_args.pretrained={folder}")
    assert code == 2
    assert len(lines) == 1
    assert str(folder) in lines[0]


def test_a_tokenizer_with_more_ids_than_the_model_has_rows_is_refused(trivium, tiny_stages, tmp_path):
    from experiments.tokenizer import train

    folder = str(tmp_path / "large")
    size = len(train([str(tiny_stages.files / "a.train.jsonl")], 400, folder))
    code, lines = trivium("sft", f"--data.init_args.tokenizer={folder}")
    assert code == 2
    assert len(lines) == 1
    assert "data.tokenizer" in lines[0]
    assert f"{size} tokens" in lines[0]


def test_rows_longer_than_the_models_positions_are_refused(trivium, rows, tmp_path):
    """The tiny model has 128; a limit of 256 alone harms nobody, a row of more than 128 tokens does."""
    file = rows(tmp_path / "x.jsonl", [{**GOOD, "output": "film " * 150}] * 40)
    code, lines = trivium("sft", f"--data.init_args.train={file}", "--data.init_args.max_length=256")
    assert code == 2
    assert "128" in lines[0]


@pytest.mark.parametrize("lr", ["-1", ".nan", "0"])
def test_a_learning_rate_that_trains_nothing_is_refused(trivium, lr):
    code, lines = trivium("sft", f"--model.init_args.optimizer.init_args.lr={lr}")
    assert code == 2
    assert "lr" in lines[0]


@pytest.mark.parametrize("option", ["--trainer.max_steps=0", "--trainer.max_steps=-1 --trainer.max_epochs=0"])
def test_a_run_of_no_steps_is_refused(trivium, tmp_path, option):
    code, lines = trivium("sft", *option.split())
    assert code == 2
    assert "steps" in lines[0] or "epochs" in lines[0]
