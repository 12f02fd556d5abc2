"""Sources: paths, globs, folders and hub names as one stream of rows, or a refusal in one line."""

import gzip
import os
import subprocess
import sys
from contextlib import nullcontext, suppress
from pathlib import Path

import pytest
from datasets import Dataset, DatasetDict
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.reading import fingerprint as reading_fingerprint
from datamodules.reading import hub as reading_hub
from datamodules.reading.fingerprint import fingerprint
from datamodules.reading.sources import read_rows
from tests.reading import GOOD, ROW, json_lines, read, refusal, write

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))


def test_globs_and_lists_are_read_in_order_and_of_several_kinds(tmp_path):
    for name in ("b.jsonl", "a.jsonl"):
        json_lines(tmp_path / name, [{"text": name}])
    write(tmp_path / "c.parquet", [{"text": "c"}])
    (tmp_path / "d.txt").write_text("d")
    paths = [tmp_path / "d.txt", tmp_path / "*.jsonl", tmp_path / "c.parquet"]
    assert [record.row["text"] for record in read(paths)] == ["d", "a.jsonl", "b.jsonl", "c"]


def test_a_file_whose_name_looks_like_a_pattern_is_a_file(tmp_path):
    assert len(read(json_lines(tmp_path / "x[1].jsonl", [ROW]))) == 1


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("x.jsonl", b"", "{file} is empty"),
        ("x.txt", b"\xef\xbb\xbf", "{file} is empty"),
        ("x.jsonl.gz", gzip.compress(b"", mtime=0), "{file} is empty"),
        ("x.jsonl.gz", GOOD, "{file} ends in .gz but is not packed with gzip: rename it"),
        ("x.jsonl", gzip.compress(GOOD, mtime=0), "{file} is packed with gzip: add .gz to its name"),
        (
            "x.jsonl",
            '{"text": "a"}\n'.encode("utf-16"),
            "{file} is UTF-16: set its `encoding` to utf-16",
        ),
        (
            "x.json.gz",
            gzip.compress(b"\xfe\xff" + "[]".encode("utf-16-be"), mtime=0),
            "{file} is UTF-16: set its `encoding` to utf-16",
        ),
        (
            "x.xlsx",
            b"PK",
            "{file} has an ending that is not known: give .json, .jsonl, .ndjson, .csv, .tsv, .txt, .md, "
            ".parquet, .arrow (.json, .jsonl, .ndjson, .csv, .tsv, .txt, .md also with .gz, .bz2, .xz, .zst)",
        ),
    ],
)
def test_a_file_that_cannot_be_read_at_all_is_refused_with_the_remedy(tmp_path, name, data, message):
    file = tmp_path / name
    file.write_bytes(data)
    assert refusal(file) == message.format(file=file)


def test_what_is_not_there_is_refused(tmp_path):
    assert refusal(tmp_path / "x.jsonl") == f"{tmp_path}/x.jsonl does not exist"
    assert refusal(tmp_path / "x") == f"{tmp_path}/x does not exist"
    assert refusal(tmp_path / "*.jsonl") == f"{tmp_path}/*.jsonl matches no file"
    assert refusal([]) == "names no file"
    json_lines(tmp_path / "y.jsonl", [ROW])
    assert refusal([tmp_path / "y.jsonl", tmp_path / "x.jsonl"]) == f"{tmp_path}/x.jsonl does not exist"


def test_a_folder_without_rows_or_of_several_splits_is_refused_with_the_remedy(tmp_path):
    assert refusal(tmp_path).startswith(f"folder {tmp_path} holds no file of a known ending: give .json")
    folder = tmp_path / "both"
    rows = Dataset.from_list([ROW])
    DatasetDict({"train": rows, "test": rows}).save_to_disk(str(folder))
    assert refusal(tmp_path) == (
        f"folder {tmp_path} holds no file of a known ending: give one of its folders, as {folder}"
    )
    assert refusal(folder) == (
        f"folder {folder} holds several splits: give one of train, test, as in {folder}[train]"
    )
    assert refusal(f"{folder}[val]") == (
        f"folder {folder} has no split val: give one of train, test, as in {folder}[train]"
    )
    for path in (folder / "train", f"{folder}[test]"):
        assert [record.row for record in read(path)] == [ROW]
    (folder / "train" / "data-00000-of-00001.arrow").unlink()
    assert "data-00000-of-00001.arrow does not exist, though " in refusal(folder / "train")


def test_a_file_that_goes_while_it_is_read_is_refused_not_traced(tmp_path):
    first, second = (json_lines(tmp_path / name, [ROW]) for name in ("a.jsonl", "b.jsonl"))
    rows = read_rows([str(first), str(second)], "data.train")
    next(rows)
    second.unlink()
    with pytest.raises(ValueError, match=f"^data.train: {second} cannot be read: No such file"):
        next(rows)


# The hub


class Hub:
    """A stand-in for the hub: what it was asked for, and what it answers."""

    def __init__(self, monkeypatch):
        self.asked: list[dict] = []
        self.revision: str | None = "abc"
        self.rows: object = [{"n": 1}, {"n": 2}]
        for file in (reading_hub, reading_fingerprint):
            monkeypatch.setattr(file, "hub_revision", lambda hub: self.revision)
        monkeypatch.setattr(reading_hub.datasets, "load_dataset", self.load)

    def load(self, name: str, config: str | None, **options: object) -> object:
        self.asked.append({"name": name, "config": config, **options})
        if isinstance(self.rows, Exception):
            raise self.rows
        return self.rows


@pytest.fixture
def hub(monkeypatch) -> Hub:
    return Hub(monkeypatch)


@pytest.mark.parametrize("path", ["some/name", "hub:some/name"])
def test_a_dataset_on_the_hub_is_streamed_at_one_revision(hub, path):
    assert read(path) == [("some/name, row 1", {"n": 1}, None), ("some/name, row 2", {"n": 2}, None)]
    assert hub.asked == [
        {"name": "some/name", "config": None, "split": "train", "revision": "abc", "streaming": True}
    ]


def test_without_the_hub_the_cached_copy_is_read_else_refused(hub):
    hub.revision = None
    assert len(read("some/name")) == 2
    assert hub.asked == [
        {"name": "some/name", "config": None, "split": "train", "revision": None, "streaming": False}
    ]
    hub.rows = ConnectionError("no\nroute")
    assert refusal("some/name") == (
        "some/name is no file or folder here, and no dataset of that name can be reached or is cached: "
        "give a path, or run once with the hub in reach"
    )


def test_a_hub_that_does_not_answer_is_asked_once():
    code = "from datamodules.reading.sources import read_rows\nnext(read_rows('nosuch', 'data.train'))"
    env = {**os.environ, "HF_HUB_OFFLINE": "0", "HF_ENDPOINT": "http://127.0.0.1:9"}  # where nobody listens
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=env, capture_output=True, text=True)
    assert "no dataset of that name can be reached or is cached" in done.stderr.splitlines()[-1]
    assert "Retry" not in done.stderr  # huggingface_hub's, a line for each of ten tries in half a minute


def test_a_dataset_without_a_train_split_is_refused_with_the_hubs_reason(hub):
    hub.rows = ValueError("Bad split: train. Available splits: ['test']\nmore")
    assert refusal("some/name") == (
        "some/name on the hub cannot be read: Bad split: train. Available splits: ['test']"
    )


def test_a_hub_that_breaks_off_is_refused_so_that_half_of_the_data_does_not_pass_for_all(hub):
    def rows():
        yield {"n": 1}
        raise RuntimeError("connection reset\nby peer")

    hub.rows = rows()
    assert refusal("some/name") == "some/name broke off after row 1: connection reset"


def test_the_fingerprint_of_a_hub_dataset_is_its_revisions_and_stays_out_of_reach_of_the_hub(hub):
    first = fingerprint("some/name", "x")
    hub.revision = None
    assert fingerprint("some/name", "x") == first
    assert fingerprint("other/name", "x") != first
    hub.revision = "def"
    assert fingerprint("some/name", "x") != first


# Any bytes


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1))
def test_no_bytes_make_it_raise_anything_but_a_refusal(tmp_path, data):
    def refused(file: Path) -> bool:
        with suppress(ValueError):
            read_rows(str(file), "data.train")
            return False
        return True

    for name in ("x.jsonl", "x.json", "x.json.gz", "x.csv.zst", "x.csv", "x.txt", "x.parquet", "x.arrow"):
        file = tmp_path / name
        file.write_bytes(b"[" + data if name == "x.json" else data)
        with pytest.raises(ValueError, match=f"^data.train: {file} ") if refused(file) else nullcontext():
            assert all((record.row is None) != (record.problem is None) for record in read(file))
