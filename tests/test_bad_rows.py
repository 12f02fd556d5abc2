"""Rows, files and checkpoints that are wrong in ways seen in the field: told in one line, or dropped and
counted."""

import json
import shutil
from pathlib import Path

import pytest

from datamodules import MixedCorpusData, Source
from experiments.cli.program import main

TURN = {"task": "x", "language": "en"}
GOOD = {"instruction": "Write.", "output": "a good film", **TURN}


def messages(*turns):
    return {"messages": [{"role": role, "content": content} for role, content in turns], **TURN}


NAME_OUTPUT = ": name it with `columns: {output: …}`"
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
        ({**GOOD, "output": None}, f"no `output` (it has `instruction`, `task`, `language`){NAME_OUTPUT}"),
        ({**GOOD, "output": 3}, "`output` is int, not text"),
        (
            {**GOOD, "instruction": ["Write."]},
            "`instruction` is list, not text: name the part of it that is meant, as in `columns: "
            "{instruction: instruction.0}`",
        ),
        ({**GOOD, "input": 3}, "`input` is int, not text"),
        (
            {**GOOD, "system_prompt": {"role": "system"}},
            "`system_prompt` is dict, not text: name the part of it that is meant, as in `columns: "
            "{system: system_prompt.role}`",
        ),
    ],
    ids=["null", "a number", "a list", "a number where text is optional", "an object for the system"],
)
def test_a_field_of_another_type_is_refused_with_file_and_line(trivium, rows, tmp_path, row, message):
    file = rows(tmp_path / "x.jsonl", [row])
    code, lines = trivium("sft", f"--data.init_args.train={file}")
    assert code == 2
    assert lines == [f"trivium: data.train: {file}:1: {message}"]


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (messages(("user", "Write.")), "no assistant turn"),
        (messages(("robot", "beep"), ("assistant", "a")), "robot"),
        (messages(("user", "Write."), ("assistant", " ")), "empty reply"),
        (messages(("user", None), ("assistant", "a")), "a message without content"),
        (messages((None, "Write."), ("assistant", "a")), "a message without role"),
        (messages(), "empty `messages`"),
    ],
    ids=["no reply", "unknown role", "empty reply", "no content", "no role", "no messages"],
)
def test_a_chat_that_cannot_be_used_is_dropped_and_counted(trivium, rows, tmp_path, row, reason):
    file = rows(tmp_path / "x.jsonl", [*[CHAT] * 40, row])
    overrides = [
        f"--data.init_args.train={file}",
        "--data.init_args.val=null",
        "--data.init_args.max_dropped=1",
    ]
    code, _ = trivium("sft", *overrides, "--data.init_args.template=datamodules.ChatTemplate")
    assert code == 0
    assert receipt(tmp_path)["kept"] == 40
    ((told, count),) = receipt(tmp_path)["dropped"].items()
    assert reason in told
    assert count == 1


@pytest.mark.parametrize(
    ("row", "reason"),
    [
        (
            {"messages": None, **TURN},
            "no `instruction` and no `messages` (it has `task`, `language`): name them "
            "with `columns`, as in `columns: {instruction: …}`",
        ),
        ({"messages": "Write.", **TURN}, "`messages` is str, not a list"),
        (messages(("user", 3), ("assistant", "a")), "`content` of a message is int, not text"),
        ({**CHAT, "language": None}, "no `language`, which data.group_by asks for"),
    ],
    ids=["no messages", "one text", "a number", "no group"],
)
def test_a_chat_of_another_type_is_refused_with_file_and_line(trivium, rows, tmp_path, row, reason):
    file = rows(tmp_path / "x.jsonl", [*[CHAT] * 40, row])
    overrides = [f"--data.init_args.train={file}", "--data.init_args.max_dropped=1"]
    code, lines = trivium("sft", *overrides, "--data.init_args.template=datamodules.ChatTemplate")
    assert code == 2
    assert lines == [f"trivium: data.train: {file}:41: {reason}"]


# --- how much may be left out, and whether a bad row stops the run

BLANK = {**GOOD, "output": " "}


@pytest.fixture
def mixed_file(tmp_path):
    """40 good rows, then one that is no JSON, one without output, one of another type, one not UTF-8."""
    mine = {**GOOD, "instruction": tmp_path.name}
    good, missing = (json.dumps({k: mine[k] for k in keys}) for keys in (list(GOOD), ["instruction", *TURN]))
    bad = [b'{"instruction": ', missing.encode(), json.dumps({**mine, "output": 3}).encode()]
    file = tmp_path / "mixed.jsonl"
    file.write_bytes(b"\n".join([*[good.encode()] * 40, *bad, good.encode().replace(b"good", b"caf\xe9")]))
    return file


@pytest.mark.parametrize("split", ["train", "val"])
def test_more_left_out_than_max_dropped_stops_and_says_how_much_why_and_where(trivium, rows, tmp_path, split):
    """4 of 100; the reason of most is told first, and its first row."""
    content = [{**GOOD, "output": split}] * 100  # another content in each test: caches know no places
    content[10] = {**GOOD, "instruction": "film " * 150}
    content[20] = content[30] = content[40] = BLANK
    file = rows(tmp_path / "x.jsonl", content)
    code, (line,) = trivium("sft", f"--data.init_args.{split}={file}", "--data.init_args.max_length=64")
    assert code == 2
    assert line.startswith(f"trivium: data.{split}: 4 of 100 rows of {file} (4.0%) would be left out")
    assert "more than max_dropped 1.0%" in line
    assert "empty `output` (3), prompt fills max_length 64 (1)" in line
    assert f"the first is {file}:21: empty `output`" in line
    assert not (tmp_path / "run" / "export").exists()


def test_as_much_left_out_as_max_dropped_allows_is_counted(trivium, rows, tmp_path):
    """1 of 100 is 1 %, the default; 1 of 99 is more."""
    more, allowed = (rows(tmp_path / f"{n}.jsonl", [BLANK] + [GOOD] * n) for n in (98, 99))
    code, lines = trivium("sft", f"--data.init_args.train={more}", "--data.init_args.val=null")
    assert code == 2
    assert "1 of 99 rows" in lines[0]
    assert trivium("sft", f"--data.init_args.train={allowed}", "--data.init_args.val=null")[0] == 0
    found = receipt(tmp_path)
    assert (found["rows"], found["kept"], found["dropped"]) == (100, 99, {"empty `output`": 1})
    assert found["first"] == {"empty `output`": f"{allowed}:1: empty `output`"}


def test_skip_counts_unreadable_and_refused_rows_and_goes_on(trivium, tmp_path, mixed_file):
    options = [f"--data.init_args.train={mixed_file}", "--data.init_args.val=null"]
    code, _ = trivium("sft", *options, "--data.init_args.on_bad_row=skip", "--data.init_args.max_dropped=0.1")
    assert code == 0
    found = receipt(tmp_path)
    assert (found["rows"], found["kept"]) == (44, 40)
    assert found["dropped"] == {
        "is not JSON": 1,
        "no `output`": 1,
        "`output` is int, not text": 1,
        "is not UTF-8": 1,
    }
    assert [place.split(":")[1].split()[0] for place in found["first"].values()] == ["41", "42", "43", "44"]


def test_skipped_rows_count_towards_max_dropped(trivium, mixed_file):
    """4 of 44 are 9.1 %."""
    options = [f"--data.init_args.train={mixed_file}", "--data.init_args.max_dropped=0.09"]
    code, lines = trivium("sft", *options, "--data.init_args.on_bad_row=skip")
    assert code == 2
    assert f"4 of 44 rows of {mixed_file} (9.1%) would be left out, more than max_dropped 9.0%" in lines[0]


@pytest.mark.parametrize("bad", ["is not JSON", "no `output`", "`output` is int", "is not UTF-8"])
def test_a_bad_row_stops_unasked_and_is_named_by_file_line_and_reason(trivium, tmp_path, mixed_file, bad):
    """Also where as many as all rows may be dropped: that is about rows that policies drop."""
    *good, broken, missing, typed, encoded = mixed_file.read_bytes().split(b"\n")
    line = {"is not JSON": broken, "no `output`": missing, "`output` is int": typed, "is not UTF-8": encoded}[
        bad
    ]
    file = tmp_path / "one.jsonl"
    file.write_bytes(b"\n".join([*good[:6], line, *good[6:]]))
    code, lines = trivium("sft", f"--data.init_args.train={file}", "--data.init_args.max_dropped=1")
    assert code == 2
    (told,) = lines
    place = f"trivium: data.train: {file}:7"
    assert told.startswith((f"{place} {bad} (", f"{place}: {bad}"))
    assert not (tmp_path / "run").exists() or not list((tmp_path / "run").rglob("*.ckpt"))


def test_a_cache_written_with_skip_still_refuses_when_bad_rows_are_errors(trivium, mixed_file):
    """And one that an error ended is gone on with when they are skipped."""
    options = [f"--data.init_args.train={mixed_file}", "--data.init_args.val=null"]
    options += ["--data.init_args.max_dropped=1"]
    before = trivium("sft", *options)
    assert before[0] == 2
    assert f"{mixed_file}:41 is not JSON" in before[1][0]
    assert trivium("sft", *options, "--data.init_args.on_bad_row=skip")[0] == 0
    assert trivium("sft", *options, "--overwrite=true") == before


def test_a_dropped_row_is_named_in_the_file_that_was_given_not_where_its_content_was_read_before(
    trivium, rows, tmp_path
):
    for name in ("before", "after"):
        file = rows(tmp_path / f"{name}.jsonl", [{**GOOD, "output": "moved"}, BLANK])
        (line,) = trivium("sft", f"--data.init_args.train={file}")[1]
        assert f"the first is {file}:2: empty `output`" in line


def test_a_streamed_source_whose_cache_was_written_with_skip_still_refuses(rows, tmp_path, tiny_tokenizer):
    file = rows(
        tmp_path / "x.jsonl", [{"text": "the film is good and the plot is slow"}] * 30 + [{"text": 3}]
    )

    def read(streaming, on_bad_row):
        sources = {"a": Source(file, streaming=streaming)}
        data = MixedCorpusData(
            sources, tiny_tokenizer, sequence_length=8, on_bad_row=on_bad_row, max_dropped=1
        )
        for blocks in data.read()["train"].blocks:
            blocks.wait_for(1_000_000)

    read(False, "skip")
    with pytest.raises(ValueError, match="x.jsonl:31: `text` is int"):
        read(True, "error")


def test_preferences_drop_what_has_no_pair_and_count_it(trivium, rows, tmp_path):
    good = {"instruction": "Write.", "replies": ["good", "bad"], "ratings": [2.0, 1.0]}
    wrong = [
        {**good, "ratings": [1.0, 1.0]},  # a tie
        {**good, "replies": ["same", "same"]},  # chosen == rejected
        {**good, "replies": ["good", " "]},  # one of two is blank
        {**good, "instruction": " "},
    ]
    file = rows(tmp_path / "x.jsonl", [good] * 16 + wrong)
    options = [f"--data.init_args.train={file}", "--data.init_args.val=null"]
    code, _ = trivium("reward", *options, "--data.init_args.max_dropped=1")
    assert code == 0
    assert receipt(tmp_path)["kept"] == 16
    dropped = receipt(tmp_path)["dropped"]
    assert dropped.pop("empty `instruction`") == 1
    ((reason, count),) = dropped.items()
    assert "no two different replies of different rating" in reason
    assert count == 3


def test_ratings_that_do_not_match_the_replies_are_refused_with_the_line(trivium, rows, tmp_path):
    file = rows(tmp_path / "x.jsonl", [{"instruction": "Write.", "replies": ["a", "b"], "ratings": [1.0]}])
    code, lines = trivium("reward", f"--data.init_args.train={file}", "--data.init_args.val=null")
    assert code == 2
    assert lines[0].startswith(f"trivium: data.train: {file}:1: 2 `replies` but 1 `ratings`")


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
    assert trivium("sft", "--data.init_args.train=")[1] == ["trivium: data.train: names no file"]
    assert trivium("sft", "--data.init_args.train=/dev/null")[1] == [
        "trivium: data.train: /dev/null is no file that can be read twice: write its rows to one"
    ]
    (tmp_path / "x.csv").write_text("instruction,output\n")
    assert trivium("sft", f"--data.init_args.train={tmp_path}/x.csv")[1] == [
        f"trivium: data.train: {tmp_path}/x.csv has no rows"
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
    from experiments.commands.tokenizer import train

    folder = str(tmp_path / "large")
    train([str(tiny_stages.files / "a.train.jsonl")], 400, folder)
    code, lines = trivium("sft", f"--data.init_args.tokenizer={folder}")
    assert code == 2
    assert len(lines) == 1
    assert "has another vocabulary than data.tokenizer" in lines[0]
    assert folder in lines[0]


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
    assert "learning rate" in lines[0] or "lr is" in lines[0]


@pytest.mark.parametrize("option", ["--trainer.max_steps=0", "--trainer.max_steps=-1 --trainer.max_epochs=0"])
def test_a_run_of_no_steps_is_refused(trivium, tmp_path, option):
    code, lines = trivium("sft", *option.split())
    assert code == 2
    assert "steps" in lines[0] or "epochs" in lines[0]
