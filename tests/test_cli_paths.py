"""A path on the command line is a path: the parser never opens the file that it names."""

import json
import sys

import pytest
import yaml

from experiments.cli.parser import parse_data
from tests.conftest import CONFIGS

OPENED: list[str] = []
"""files that this process has opened"""
CONTENTS = {
    "array.json": '[{"instruction": "a", "output": "b"}]',
    "object.json": '{"class_path": "os.system"}',
    "rows.csv": "instruction,output\na,b\n",
    "colon.txt": "a: b\nc: d\n",
    "list.yaml": "- a\n- b\n",
    "wrong.json": "{",
    "bytes.parquet": "\x00PAR1",
    "[brackets].jsonl": "{}",
    "null": "x",
}


def _note(event, arguments):
    if event == "open":
        OPENED.append(str(arguments[0]))


sys.addaudithook(_note)


def parsed(stage, *options):
    return parse_data(["fit", "--config", str(CONFIGS / f"{stage}.yaml"), *options])


@pytest.fixture(params=CONTENTS)
def file(request, tmp_path):
    path = tmp_path / request.param
    path.write_text(CONTENTS[request.param])
    OPENED.clear()
    yield str(path)
    assert str(path) not in OPENED


PARENTS = {
    "sft": ["--model.init_args.pretrained=x"],
    "reward": ["--model.init_args.pretrained=x"],
    "ppo": ["--model.init_args.actor=x", "--model.init_args.reward=x"],
}


def test_files_of_rows_are_not_opened_by_the_command_line(file):
    for stage, more in PARENTS.items():
        options = [f"--data.init_args.{name}={file}" for name in ("train", "val", "tokenizer")]
        data = parsed(stage, *more, *options)
        assert (data.train, data.val, data.tokenizer_path) == (file, file, file)


def test_nor_those_of_lists_and_of_named_sources(file):
    several = {"one": {"train": [file, file]}, "two": {"train": file, "weight": 2}}
    data = parsed("sft", *PARENTS["sft"], f"--data.init_args.train={json.dumps(several)}")
    assert (data.train["one"].train, data.train["two"].train) == ([file, file], file)
    data = parsed("sft", *PARENTS["sft"], f"--data.init_args.train={json.dumps([file, file])}")
    assert data.train == [file, file]
    sources = {"web": {"train": file, "val": file, "weight": 1}}
    data = parsed("pretrain", f"--data.init_args.sources={json.dumps(sources)}")
    assert (data.sources["web"].train, data.sources["web"].val) == (file, file)


def test_nor_those_that_a_yaml_names(file, tmp_path):
    own = tmp_path / "own" / "stage.yaml"
    own.parent.mkdir()
    arguments = {"train": file, "val": [file], "tokenizer": file}
    own.write_text(yaml.safe_dump({"data": {"init_args": arguments}}))
    data = parsed("sft", *PARENTS["sft"], "--config", str(own))
    assert (data.train, data.val, data.tokenizer_path) == (file, [file], file)


def test_the_data_itself_may_be_a_yaml(tmp_path):
    own = tmp_path / "data.yaml"
    own.write_text(
        yaml.safe_dump({"class_path": "PromptData", "init_args": {"train": "a.jsonl", "tokenizer": "b"}})
    )
    data = parse_data(["fit", "--model", "SFTModule", "--model.pretrained", "x", "--data", str(own)])
    assert (type(data).__name__, data.train) == ("PromptData", "a.jsonl")
