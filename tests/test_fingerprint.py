"""Fingerprints: a source is known by its content, and an unchanged file is not hashed twice."""

import hashlib
import json
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from datamodules.reading.fingerprint import cache_folder, fingerprint
from tests.reading import ROW, ROWS, json_lines, write


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))


@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(data=st.binary(min_size=1, max_size=64), place=st.integers(0, 63), change=st.integers(1, 255))
def test_a_fingerprint_changes_with_any_byte(tmp_path, data, place, change):
    file = tmp_path / "x.jsonl"
    file.write_bytes(data)
    before = fingerprint(str(file), "x")
    changed = bytearray(data)
    changed[place % len(data)] ^= change
    file.write_bytes(changed)
    assert fingerprint(str(file), "x") != before


def test_a_fingerprint_depends_on_content_order_and_kind_not_on_the_path(tmp_path):
    for name, text in (("a.jsonl", "1"), ("b.jsonl", "2"), ("ab.jsonl", "12"), ("a.txt", "1")):
        (tmp_path / name).write_text(text)
    a, b, ab, txt = (str(tmp_path / name) for name in ("a.jsonl", "b.jsonl", "ab.jsonl", "a.txt"))
    prints = [fingerprint(path, "x") for path in ([a, b], [b, a], ab, [a, b, a], a, txt)]
    assert len(set(prints)) == 6
    (tmp_path / "moved").mkdir()
    for file in (a, b):
        Path(file).rename(tmp_path / "moved" / ("x" + Path(file).name))
    assert fingerprint(str(tmp_path / "moved" / "*"), "x") == prints[0]


def test_a_saved_folder_may_be_moved_and_changes_with_its_rows(tmp_path):
    write(tmp_path / "one", ROWS)
    before = fingerprint(str(tmp_path / "one"), "x")
    (tmp_path / "one").rename(tmp_path / "two")
    assert fingerprint(str(tmp_path / "two"), "x") == before
    write(tmp_path / "three", ROWS[:-1])
    assert fingerprint(str(tmp_path / "three"), "x") != before


def old(file: Path) -> Path:
    """A file last changed long ago, so that its time of change tells it from a later version."""
    os.utime(file, ns=(10**18, 10**18))
    return file


def test_an_unchanged_file_is_not_hashed_again(tmp_path, monkeypatch):
    file = old(json_lines(tmp_path / "x.jsonl", [ROW]))
    before = fingerprint(str(file), "x")
    monkeypatch.setattr(hashlib, "file_digest", lambda *_: pytest.fail("hashed again"))
    assert fingerprint(str(file), "x") == before
    assert list(json.loads((cache_folder() / "files.json").read_text())) == [str(file)]
    os.utime(file, ns=(10**18, 10**18 + 1))
    with pytest.raises(pytest.fail.Exception, match="hashed again"):
        fingerprint(str(file), "x")


def test_a_file_changed_a_moment_ago_is_not_remembered(tmp_path):
    file = json_lines(tmp_path / "x.jsonl", [ROW])
    fingerprint(str(file), "x")
    assert not (cache_folder() / "files.json").exists()


@pytest.mark.parametrize("memo", ["", "{", "[]", '{"PATH": 3}', '{"PATH": []}', "\x00"])
def test_a_corrupt_memo_is_ignored_and_replaced(tmp_path, memo):
    file = old(json_lines(tmp_path / "x.jsonl", [ROW]))
    before = fingerprint(str(file), "x")
    (cache_folder() / "files.json").write_text(memo.replace("PATH", str(file)))
    assert fingerprint(str(file), "x") == before
    assert str(file) in json.loads((cache_folder() / "files.json").read_text())


def test_concurrent_writers_leave_a_whole_memo(tmp_path):
    files = [old(json_lines(tmp_path / f"{i}.jsonl", [{"n": i}])) for i in range(40)]
    with ThreadPoolExecutor(8) as pool:
        together = list(pool.map(lambda file: fingerprint(str(file), "x"), files))
    assert set(json.loads((cache_folder() / "files.json").read_text())) <= set(map(str, files))
    assert [fingerprint(str(file), "x") for file in files] == together
    assert [file.name for file in cache_folder().iterdir()] == ["files.json"]


def test_a_cache_folder_that_cannot_be_written_is_no_error(tmp_path, monkeypatch):
    file = old(json_lines(tmp_path / "x.jsonl", [ROW]))
    before = fingerprint(str(file), "x")
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "file"))
    assert fingerprint(str(file), "x") == before


def test_the_cache_folder_is_where_the_environment_says_and_is_not_created(tmp_path, monkeypatch):
    assert cache_folder() == tmp_path / "cache" / "tokens"
    assert not cache_folder().exists()
    monkeypatch.delenv("TRIVIUM_CACHE")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert cache_folder() == tmp_path / ".cache" / "trivium" / "tokens"
    assert not (tmp_path / ".cache").exists()
