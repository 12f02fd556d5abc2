"""`trivium init`: a file alone gives the YAML of the stage that fits it, which runs."""

import csv
import gzip
import json
import re

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import yaml
from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

import datamodules
from datamodules import ChatTemplate, Source
from experiments.cli.program import main

ROWS = 24


def said(role, text):
    return {"role": role, "content": text}


CALL = {"type": "function", "function": {"name": "f", "arguments": '{"x": 1}'}}
TOOL = {"type": "function", "function": {"name": "f", "parameters": {}}}
LAYOUTS = {
    "Alpaca": ("sft", lambda i: {"instruction": f"Write {i}", "input": "", "output": "The film is good"}),
    "Dolly": ("sft", lambda i: {"instruction": f"Write {i}", "context": "a film", "response": "good"}),
    "ShareGPT": (
        "sft",
        lambda i: {"conversations": [{"from": "human", "value": f"{i}"}, {"from": "gpt", "value": "good"}]},
    ),
    "messages": ("sft", lambda i: {"messages": [said("user", f"{i}"), said("assistant", "good")]}),
    "parts and tools": (
        "sft",
        lambda i: {
            "messages": [
                {"role": "user", "content": [{"type": "text", "text": f"film {i}"}]},
                {"role": "assistant", "content": None, "tool_calls": [CALL]},
                {"role": "tool", "content": "7"},
                said("assistant", "good"),
            ],
            "tools": [TOOL],
        },
    ),
    "query": ("sft", lambda i: {"query": f"film {i}", "response": "good"}),
    "question": ("sft", lambda i: {"question": f"film {i}", "answer": "good"}),
    "completion": ("sft", lambda i: {"prompt": f"film {i}", "completion": "good"}),
    "human": ("sft", lambda i: {"human": f"film {i}", "assistant": "good"}),
    "HH-RLHF": (
        "reward",
        lambda i: {
            side: f"\n\nHuman: film {i}\n\nAssistant: {reply}"
            for side, reply in (("chosen", "good"), ("rejected", "bad"))
        },
    ),
    "pairs": ("reward", lambda i: {"prompt": f"film {i}", "chosen": "good", "rejected": "bad"}),
    "pairs of messages": (
        "reward",
        lambda i: {
            side: [said("user", f"film {i}"), said("assistant", reply)]
            for side, reply in (("chosen", "good"), ("rejected", "bad"))
        },
    ),
    "UltraFeedback": (
        "reward",
        lambda i: {
            "instruction": f"film {i}",
            "completions": [{"response": f"good {k}", "overall_score": k} for k in range(3)],
        },
    ),
    "prompt": ("ppo", lambda i: {"prompt": f"film {i}"}),
    "prompt as messages": ("ppo", lambda i: {"prompt": [said("user", f"film {i}")]}),
    "documents": ("pretrain", lambda i: {"text": f"the film {i} is good and the music is great " * 3}),
}


@pytest.fixture(scope="module")
def models(tiny_tokenizer, tiny_config, tmp_path_factory):
    """The options of a small language model and a reward model, both with random weights."""
    folder = tmp_path_factory.mktemp("models")
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    config = LlamaConfig(**{**tiny_config, "max_position_embeddings": 512}, vocab_size=len(tokenizer))
    config.pad_token_id, config.num_labels = tokenizer.pad_token_id, 1
    for name, kind in (("policy", LlamaForCausalLM), ("scores", LlamaForSequenceClassification)):
        kind(config).save_pretrained(folder / name)
        tokenizer.save_pretrained(folder / name)
    return ["--model", str(folder / "policy"), "--reward", str(folder / "scores")]


@pytest.fixture
def begin(models, tmp_path):
    """Runs `trivium init` on a file into the folder `run`; the exit code."""

    def run(file, *more, model=True):
        return main(["init", str(tmp_path / "run"), "--data", str(file), *(models if model else []), *more])

    return run


def written(folder, stage):
    file = folder / "run" / f"{stage}.yaml"
    return file, yaml.safe_load(file.read_text("utf-8"))


def data_of(config):
    """The data module of a configuration."""
    arguments = dict(config["data"]["init_args"])
    if "sources" in arguments:
        arguments["sources"] = {name: Source(**source) for name, source in arguments["sources"].items()}
    if "template" in arguments:
        arguments["template"] = ChatTemplate()
    return getattr(datamodules, config["data"]["class_path"].removeprefix("datamodules."))(**arguments)


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_stage_that_fits_it_and_a_data_module_that_reads_it(
    begin, rows, tmp_path, capsys, name
):
    stage, row = LAYOUTS[name]
    file = rows(tmp_path / "x.jsonl", [row(i) for i in range(ROWS)])
    assert begin(file, model=stage != "pretrain") == 0
    config_file, config = written(tmp_path, stage)
    printed = capsys.readouterr().out
    assert f"trivium fit --config {config_file}" in printed
    assert "Data receipt" in printed
    splits = data_of(config).read()  # that the parser takes it too, init has seen, and a run below does
    assert len(splits["train"]) > 0
    assert len(splits["val"]) > 0
    if stage != "pretrain":
        # 5 % of 24 rows is 1.2: one question is held out
        assert [len(splits[name].unpacked) for name in ("train", "val")] == [ROWS - 1, 1]
        longest = max(split.longest for split in splits.values())
        limit = config["data"]["init_args"]["max_prompt_length" if stage == "ppo" else "max_length"]
        assert longest <= limit < longest + 8


@pytest.mark.parametrize("name", ["parts and tools", "UltraFeedback", "prompt", "documents"])
def test_what_is_written_trains(begin, rows, tmp_path, name):
    stage, row = LAYOUTS[name]
    file = rows(tmp_path / "x.jsonl", [row(i) for i in range(ROWS)])
    assert begin(file, model=stage != "pretrain") == 0
    line = ["fit", "--config", str(tmp_path / "run" / f"{stage}.yaml"), "--trainer.max_steps", "2"]
    assert main([*line, "--trainer.precision", "32-true", "--trainer.logger", "false"]) == 0
    assert (tmp_path / "run" / stage / "export" / "config.json").is_file()


ALPACA = [{"instruction": f"电影{i}", "output": "很好看的故事和音乐"} for i in range(ROWS)]


@pytest.mark.parametrize("name", ["array.json", "object.json", "x.csv", "x.tsv", "x.parquet", "gbk.csv"])
def test_formats_and_encodings_become_the_same_rows(begin, tmp_path, capsys, name):
    file = tmp_path / name
    comma = "\t" if name.endswith("tsv") else ","
    table = "".join(comma.join(row.values()) + "\n" for row in [{"a": "instruction", "b": "output"}, *ALPACA])
    if name == "x.parquet":
        pq.write_table(pa.Table.from_pylist(ALPACA), file)
    elif name == "array.json":
        file.write_text(json.dumps(ALPACA))
    elif name == "object.json":
        file.write_text(json.dumps({"data": ALPACA}))
    else:
        file.write_bytes(table.encode("gbk" if name == "gbk.csv" else "utf-8"))
    assert begin(file) == 0
    folder = tmp_path / "run" / "data"
    parts = [(folder / f"sft.{part}.jsonl").read_text("utf-8").splitlines() for part in ("train", "val")]
    assert sorted(map(json.loads, parts[0] + parts[1]), key=str) == sorted(ALPACA, key=str)
    assert ("encoding: gb18030" in capsys.readouterr().out) == (name == "gbk.csv")


def test_no_question_is_in_both_parts_and_the_parts_are_told(begin, rows, tmp_path, capsys):
    pairs = [{"prompt": f"film {i // 4}", "chosen": f"good {i}", "rejected": "bad"} for i in range(40 * 4)]
    assert begin(rows(tmp_path / "x.jsonl", pairs)) == 0
    train, val = (
        {json.loads(line)["prompt"] for line in file.read_text().splitlines()}
        for file in (tmp_path / "run/data/reward.train.jsonl", tmp_path / "run/data/reward.val.jsonl")
    )
    assert (len(train), len(val)) == (38, 2)  # 5 % of 160 rows are 8, two questions of 4
    assert not train & val
    (said,) = [line for line in capsys.readouterr().out.splitlines() if "held out" in line]
    assert said.startswith("8 of 160 rows are held out to validate on, no question is in both parts")
    assert said.endswith(f"copied to {tmp_path}/run/data; the files themselves stay as they are.")
    assert f"# {said}" in (tmp_path / "run/reward.yaml").read_text().splitlines()


def test_one_long_text_is_cut_at_a_paragraph(begin, tmp_path, capsys):
    text = "".join(f"The film {i} is good.\nThe music is great.\n\n" for i in range(100))
    (tmp_path / "x.txt").write_text(text)
    assert begin(tmp_path / "x.txt", model=False) == 0
    parts = [
        json.loads((tmp_path / f"run/data/pretrain.{p}.jsonl").read_text())["text"] for p in ("train", "val")
    ]
    assert "".join(parts) == text
    assert parts[0].endswith("great.\n\n")
    assert len(parts[0]) > 0.9 * len(text)
    assert "The text's end is held out to validate on" in capsys.readouterr().out


def test_splits_of_a_folder_are_used_as_they_are(begin, rows, tmp_path):
    (tmp_path / "set").mkdir()
    rows(tmp_path / "set" / "train.jsonl", ALPACA)
    rows(tmp_path / "set" / "validation.jsonl", ALPACA[:3])
    assert begin(tmp_path / "set") == 0
    arguments = written(tmp_path, "sft")[1]["data"]["init_args"]
    assert arguments["train"] == f"{tmp_path}/set[train]"
    assert arguments["val"] == f"{tmp_path}/set[val]"
    assert not (tmp_path / "run" / "data").exists()


def test_what_a_usual_run_would_refuse_is_allowed_for_and_told(begin, rows, tmp_path):
    """Every fourth row is a tie, of which nothing can be learned."""
    row = LAYOUTS["UltraFeedback"][1]
    ties = {"instruction": "same", "completions": [{"response": r, "overall_score": 1} for r in "ab"]}
    file = rows(tmp_path / "x.jsonl", [ties if i % 4 == 0 else row(i) for i in range(200)])
    assert begin(file) == 0
    arguments = written(tmp_path, "reward")[1]["data"]["init_args"]
    assert 0.25 <= arguments["max_dropped"] <= 0.28


def test_conversations_in_one_text_are_for_sft_or_where_it_is_asked_for_pretraining(begin, rows, tmp_path):
    said = [f"### Human: Is film {i} good?### Assistant: Yes, it is good." for i in range(ROWS)]
    file = rows(tmp_path / "x.jsonl", [{"text": text} for text in said])
    assert begin(file) == 0
    arguments = written(tmp_path, "sft")[1]["data"]["init_args"]
    assert arguments["template"]["class_path"] == "datamodules.ChatTemplate"
    assert begin(file, "--stage", "pretrain", "--overwrite") == 0
    assert len(data_of(written(tmp_path, "pretrain")[1]).read()["train"]) > 0
    posts = [{"text": f"post {i} about films, " * 3} for i in range(ROWS)] + [{"text": said[0]}]
    assert begin(rows(tmp_path / "y.jsonl", posts), "--overwrite", model=False) == 0


@pytest.mark.parametrize(("count", "letter"), [("answer_idx", "C"), ("answer_number", "B")])
def test_medmcqa_is_trained_as_the_option_that_its_refusal_names_says(begin, rows, tmp_path, count, letter):
    lines = [
        {"question": f"film {i}", **{f"op{c}": f"good {c}" for c in "abcd"}, "cop": 2} for i in range(24)
    ]
    assert begin(rows(tmp_path / "x.jsonl", lines), "--columns", f"{count}=cop") == 0
    data = data_of(written(tmp_path, "sft")[1])
    data.setup()
    split = data.splits["train"]
    assert {data.tokenizer.decode(split[i]["input_ids"])[-5:] for i in range(len(split))} == {f"{letter}</s>"}


def test_columns_and_a_stage_are_taken_from_the_command_line(begin, rows, tmp_path):
    file = rows(tmp_path / "x.jsonl", [{"frage": f"a {i}", "antwort": {"text": "b"}} for i in range(ROWS)])
    columns = ["--columns", "instruction=frage", "output=antwort.text"]
    assert begin(file, *columns) == 0
    arguments = written(tmp_path, "sft")[1]["data"]["init_args"]
    assert arguments["columns"] == {"instruction": "frage", "output": "antwort.text"}
    assert begin(file, *columns, "--stage", "ppo") == 0
    assert written(tmp_path, "ppo")[1]["data"]["class_path"] == "datamodules.PromptData"


REFUSED = {
    "empty": ("", [], "x.jsonl is empty"),
    "unknown": (
        '{"title": "a", "body": "b"}\n',
        [],
        "it has `title`, `body`.*name them with `--columns instruction=…`",
    ),
    "a number from 0 or from 1": (
        '{"question": "a", "opa": "b", "opb": "c", "opc": "d", "opd": "e", "cop": 1}\n',
        [],
        "with `--columns answer_idx=cop` or `--columns answer_number=cop`",
    ),
    "a label in one row": (
        '{"instruction": "a", "output": "b"}\n{"instruction": "a", "output": "b", "label": 0}\n',
        [],
        r"x.jsonl:2 `label` is 0.*`--columns is_correct=label`.*or `--columns category=label`",
    ),
    "a stage that cannot": ('{"text": "a"}\n', ["--stage", "sft"], "--stage sft does not read documents"),
    "a bad row": ('{"prompt": "a", "completion": "b"}\n{"prom\n', [], r"1 of 2 rows.*x.jsonl:2 is not JSON"),
    "two kinds": (
        '{"prompt": "a", "completion": "b"}\n{"text": "b"}\n',
        [],
        r"x.jsonl:2 is a row of documents, but .*x.jsonl:1 of instructions",
    ),
    "no such column": (
        '{"a": "a"}\n',
        ["--columns", "instruction=b", "output=a"],
        "no `b`, which `columns` calls `instruction`",
    ),
    "no model": ('{"prompt": "a", "completion": "b"}\n', None, "give `--model DIR`"),
    "no actor": ('{"prompt": "a"}\n', None, "give `--actor DIR` and `--reward DIR`"),
    "a model that is none": (
        '{"prompt": "a", "completion": "b"}\n',
        ["--model", "nowhere"],
        "--model: nowhere is no directory of a model",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_a_refusal_is_one_line_and_leaves_nothing(begin, tmp_path, capsys, name):
    text, more, message = REFUSED[name]
    (tmp_path / "x.jsonl").write_text(text)
    assert begin(tmp_path / "x.jsonl", *(more or []), model=more is not None) == 2
    (line,) = [line for line in capsys.readouterr().err.splitlines() if line.startswith("trivium: ")]
    assert re.search(message, line), line
    assert not (tmp_path / "run").exists()


def test_what_is_there_is_replaced_only_when_asked(begin, rows, tmp_path, capsys):
    file = rows(tmp_path / "x.jsonl", ALPACA)
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "sft.yaml").write_text("mine")
    assert begin(file) == 2
    assert "sft.yaml is there already" in capsys.readouterr().err
    assert [path.name for path in (tmp_path / "run").iterdir()] == ["sft.yaml"]
    assert (tmp_path / "run" / "sft.yaml").read_text() == "mine"
    assert begin(file, "--overwrite") == 0
    assert written(tmp_path, "sft")[1]["data"]["class_path"] == "datamodules.InstructionData"
    train = tmp_path / "run/data/sft.train.jsonl"
    assert begin(train, "--overwrite") == 2
    assert "it is read" in capsys.readouterr().err
    assert len(train.read_text().splitlines()) == ROWS - 1


def test_a_file_in_the_place_of_the_folder_is_refused(begin, rows, tmp_path, capsys):
    (tmp_path / "run").write_text("x")
    assert begin(rows(tmp_path / "x.jsonl", ALPACA)) == 2
    assert f"{tmp_path}/run is a file" in capsys.readouterr().err


def test_a_tokenizer_without_a_chat_template_is_given_one_for_conversations(begin, models, rows, tmp_path):
    from experiments.commands.tokenizer import CHAT_TEMPLATE

    bare = tmp_path / "bare"
    tokenizer = AutoTokenizer.from_pretrained(models[1])
    tokenizer.chat_template = None
    LlamaForCausalLM.from_pretrained(models[1]).save_pretrained(bare)
    tokenizer.save_pretrained(bare)
    row = LAYOUTS["messages"][1]
    assert begin(rows(tmp_path / "x.jsonl", [row(i) for i in range(ROWS)]), "--model", str(bare)) == 0
    arguments = written(tmp_path, "sft")[1]["data"]["init_args"]
    assert arguments["tokenizer"] == str(tmp_path / "run" / "sft-tokenizer")
    given = AutoTokenizer.from_pretrained(arguments["tokenizer"])
    assert given.chat_template == CHAT_TEMPLATE
    assert given.get_vocab() == tokenizer.get_vocab()


# --- a large file: rows from many places of it, and a copy of bytes


@pytest.fixture
def large(monkeypatch):
    """What is large, and what is read of it, a thousandth of what it is elsewhere."""
    from experiments.init import beginning, receipts
    from experiments.init import large as module

    for each in (beginning, receipts, module):
        monkeypatch.setattr(each, "LARGE", 32_000)
    monkeypatch.setattr(module, "WINDOW", 600)


def test_a_large_file_is_estimated_and_nothing_of_it_is_lost(begin, rows, tmp_path, capsys, large):
    said = [
        {"prompt": f"film {i // 3}", "chosen": f"good {i}", "rejected": "bad " * (i % 7)} for i in range(3000)
    ]
    files = [tmp_path / "a.jsonl", tmp_path / "b.jsonl"]
    rows(files[0], said[:2000])
    rows(files[1], said[2000:])
    files[1].write_bytes(files[1].read_bytes().rstrip(b"\n"))  # a last line without its end
    assert begin(tmp_path / "*.jsonl") == 0
    parts = [(tmp_path / f"run/data/reward.{part}.jsonl").read_bytes() for part in ("train", "val")]
    train, val = ([json.loads(line) for line in part.splitlines()] for part in parts)
    number = {row["chosen"]: i for i, row in enumerate(said)}
    assert sorted(train + val, key=lambda row: number[row["chosen"]]) == said
    assert [number[row["chosen"]] for row in train] == sorted(number[row["chosen"]] for row in train)
    assert val
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in val}
    told = capsys.readouterr().out
    total = int(
        re.search(r"An estimate from [\d,]+ rows, spread over some ([\d,]+)", told)[1].replace(",", "")
    )
    # some 640 rows of 55 to 85 bytes each were read, so that their mean is known to half a per cent or so
    assert 0.97 < (total + len(val)) / 3000 < 1.03
    told = "".join(told.split())  # a console breaks lines where a folder's name is long
    assert re.search(r"leftout,empty`rejected`;thefirst:\S+[ab]\.jsonl,byte\d+", told)
    data = data_of(written(tmp_path, "reward")[1]).read()
    assert len(data["train"].unpacked) + len(data["val"].unpacked) > 2000  # the others' replies are blank


@pytest.mark.parametrize("kind", ["csv", "jsonl.gz", "parquet", "json"])
def test_of_a_large_file_of_any_kind_some_rows_are_looked_at_and_none_is_lost(
    begin, rows, tmp_path, capsys, large, monkeypatch, kind
):
    from experiments.init import rows as module

    said = [{"prompt": f"film {i // 3}", "completion": f'good, "{i}"\n' + "x" * 60} for i in range(3000)]
    file, columns = tmp_path / f"x.{kind}", ["prompt", "completion"]
    if kind == "csv":
        with file.open("w", newline="") as stream:
            writer = csv.DictWriter(stream, columns)
            writer.writeheader()
            writer.writerows(said)
    elif kind == "parquet":
        pq.write_table(pa.Table.from_pylist(said), file, row_group_size=700, compression="none")
    elif kind == "json":
        file.write_text(json.dumps(said))
    else:
        file.write_bytes(gzip.compress("".join(json.dumps(row) + "\n" for row in said).encode(), 1))
    looked, keys = [], module._keys
    monkeypatch.setattr(module, "_keys", lambda row, reader: looked.append(row) or keys(row, reader))
    assert begin(file) == 0
    parts = [(tmp_path / f"run/data/sft.{part}.jsonl").read_text().splitlines() for part in ("train", "val")]
    train, val = ([json.loads(line) for line in part] for part in parts)
    number = {row["completion"]: i for i, row in enumerate(said)}
    assert sorted(train + val, key=lambda row: number[row["completion"]]) == said
    assert val
    assert not {row["prompt"] for row in train} & {row["prompt"] for row in val}
    told = capsys.readouterr().out
    assert f"spread over some {3000 - len(val):,}" in " ".join(told.split())
    places = [number[row["completion"]] for row in looked]
    assert len(places) < 2000
    assert max(places) > 2500  # from all of the file
    held = rows(tmp_path / "y.jsonl", said[:3])
    assert begin(file, "--overwrite", "--val", held) == 0
    assert not list((tmp_path / "run/data").iterdir())


def test_a_large_file_that_is_validated_on_another_stays_in_its_place(begin, rows, tmp_path, large):
    file = rows(tmp_path / "x.jsonl", [{"prompt": f"film {i}", "completion": "good"} for i in range(1500)])
    held = rows(tmp_path / "y.jsonl", [{"prompt": "film", "completion": "good"}] * 3)
    assert begin(file, "--val", held) == 0
    arguments = written(tmp_path, "sft")[1]["data"]["init_args"]
    assert (arguments["train"], arguments["val"]) == (file, held)
    assert not (tmp_path / "run" / "data").exists()


def test_rows_are_found_from_any_byte_on(tmp_path):
    from datamodules.reading.json_rows import rows_from

    lines = [b'\xef\xbb\xbf{"a": 0}\n', b'{"a": 1}\r\n', b"\n", b'{"a": 2\n', b'{"a": 3}']
    file = tmp_path / "x.jsonl"
    file.write_bytes(b"".join(lines))
    starts = [sum(map(len, lines[:i])) for i in range(6)]
    whole = [starts[i] for i in (0, 1, 3, 4)]
    for start in range(starts[5]):
        for size in (1, 12, 100):
            found = list(rows_from(str(file), start, size))
            assert [row.start for row in found] == [place for place in whole if start <= place < start + size]
            assert all(row.end == starts[starts.index(row.start) + 1] for row in found)
    assert [row.record.row for row in rows_from(str(file), 0, 100)] == [{"a": 0}, {"a": 1}, None, {"a": 3}]
