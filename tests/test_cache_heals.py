"""A token cache that is damaged, full, read-only or in use: told in one line, and mended where it can be."""

import errno
import multiprocessing
import os
import resource
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from datamodules.caching import token_cache, writer
from datamodules.caching.token_cache import TokenCache
from datamodules.caching.writer import _in_batches
from datamodules.errors import UserError
from datamodules.reading.record import Record
from tests.letters import Letters, cache, columns, expected, fail, texts, written

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def small_shards(tmp_path, monkeypatch):
    """A cache of its own; a batch of 10 rows, 3 to 5 of them a shard."""
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(writer, "BATCH_ROWS", 10)
    monkeypatch.setattr(writer, "SHARD_BYTES", 4000)


@pytest.fixture(autouse=True)
def told(monkeypatch):
    """The lines that a user sees."""
    lines: list[str] = []
    monkeypatch.setattr(token_cache, "rank_zero_info", lines.append)
    return lines


@pytest.fixture
def source(tmp_path, rows):
    return rows(tmp_path / "source.jsonl", [{"text": text} for text in texts()])


def shards(found: TokenCache) -> list[Path]:
    return sorted(found.folder.glob("*.arrow"))


def zeroed(start: int, length: int):
    def damage(file: Path) -> None:
        content = bytearray(file.read_bytes())
        content[start : start + length] = bytes(len(content[start : start + length]))
        file.write_bytes(content)

    return damage


DAMAGE = {
    "cut": lambda file: os.truncate(file, file.stat().st_size // 2),
    "empty": lambda file: os.truncate(file, 0),
    "longer": lambda file: file.write_bytes(file.read_bytes() + b"\0"),
    "missing": Path.unlink,
    "all zeros": zeroed(0, 1 << 20),
    "zeros in the middle": zeroed(2000, 200),
    "zeros at the end": zeroed(600, 1 << 20),
    "another's": lambda file: file.write_bytes(b"ARROW1" + os.urandom(file.stat().st_size - 6)),
}


@pytest.mark.parametrize("which", [0, 2, -1])
@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_shard_is_told_in_a_line_and_it_alone_is_written_anew(source, damage, which, told):
    before = written(source)
    contents = [file.read_bytes() for file in shards(before)]
    stamps = [file.stat().st_mtime_ns for file in shards(before)]
    victim = shards(before)[which]
    DAMAGE[damage](victim)
    encoded = []
    found = cache(source, {n: lambda n=n: encoded.append(n) for n in range(200)})
    found.write(strict=True)
    assert columns(found) == expected()
    assert [file.read_bytes() for file in shards(found)] == contents
    (line,) = told
    assert line.startswith("data.train: token cache ")
    assert victim.name in line
    assert "writing it anew" in line
    rows = pa.ipc.open_stream(victim.read_bytes()).read_all()["number"].to_pylist()
    assert sorted(encoded) == rows  # none of another shard's
    kept = [file.stat().st_mtime_ns for file in shards(found)]
    assert [a == b for a, b in zip(kept, stamps, strict=True)].count(True) >= len(stamps) - 1
    again = written(source)
    assert columns(again) == expected()
    assert len(told) == 1


def test_damage_that_left_the_time_of_change_as_it_was_is_found(source):
    """As by a copy that keeps times."""
    found = written(source)
    file = shards(found)[1]
    before = file.stat()
    zeroed(1000, 100)(file)
    os.utime(file, ns=(before.st_atime_ns, before.st_mtime_ns))
    assert columns(written(source)) == expected()


def test_a_shard_is_read_for_its_check_once_and_after_a_start_of_the_machine_again(source, monkeypatch):
    written(source)
    read = []
    real = token_cache.Checks.damaged.__globals__["checksum"]
    monkeypatch.setattr(
        "datamodules.caching.shards.checksum", lambda file: (read.append(file.name), real(file))[1]
    )
    monkeypatch.setattr(token_cache.Checks, "known", {})  # as in another process
    assert columns(written(source)) == expected()
    assert not read
    monkeypatch.setattr("datamodules.caching.shards._boot", lambda: "another start")
    monkeypatch.setattr(token_cache.Checks, "known", {})
    found = written(source)
    assert read == [file.name for file in shards(found)]


INDEX_DAMAGE = {
    "missing": Path.unlink,
    "empty": lambda file: file.write_text(""),
    "zeros": lambda file: file.write_bytes(bytes(file.stat().st_size)),
    "cut": lambda file: os.truncate(file, file.stat().st_size - 9),
    "a digit": lambda file: file.write_text(file.read_text().replace("200", "199")),
    "another format": lambda file: file.write_text('{"rows": 3}'),
    "bytes": lambda file: file.write_bytes(b"\xff\xfe"),
}


@pytest.mark.parametrize("damage", INDEX_DAMAGE)
def test_a_damaged_index_is_told_and_the_cache_written_anew(source, damage, told):
    INDEX_DAMAGE[damage](written(source).folder / "index.json")
    found = written(source)
    assert columns(found) == expected()
    assert (found.index.rows, found.index.tokens) == (200, sum(map(len, texts())))
    assert len(told) == 1
    assert "has no whole index" in told[0]


def test_a_cache_that_was_not_finished_is_mended_and_goes_on(source, told):
    with pytest.raises(RuntimeError):
        cache(source, {150: fail}).write(strict=True)
    file = shards(cache(source))[0]
    zeroed(500, 50)(file)
    assert columns(written(source)) == expected()
    assert len(told) == 1


def test_a_shard_that_becomes_other_tokens_makes_the_whole_cache_anew(source, told):
    """As after an update of a library: the index counts what was, so shards of both would not do."""
    file = shards(written(source))[1]
    file.write_bytes(b"")
    shouted = cache(source)
    shouted.encoder.render = lambda row, number: Letters.render(
        shouted.encoder, {"text": row["text"].upper()}, number
    )
    shouted.write(strict=True)
    assert columns(shouted) == expected([text.upper() for text in texts()])
    assert len(told) == 1


def test_another_process_that_has_a_damaged_shard_mapped_is_not_disturbed(source):
    """It keeps the file that it opened."""
    reader = written(source)
    zeroed(3000, 100)(shards(reader)[-1])
    changed = columns(reader)
    assert columns(written(source)) == expected()
    assert columns(reader) == changed


# --- where nothing can be written


def in_a_child(work) -> int:
    """The exit code of a process that does something."""
    process = FORK.Process(target=work)
    process.start()
    process.join(60)
    return process.exitcode


def refused(path, reason) -> None:
    """Asserts the one line of a cache that cannot be written."""
    with pytest.raises(UserError) as caught:
        written(path)
    line = str(caught.value)
    assert line.startswith("data.train: the token cache ")
    assert os.strerror(reason) in line
    assert "TRIVIUM_CACHE" in line
    assert "\n" not in line


def test_a_full_disk_is_told_in_a_line_and_what_was_complete_stays(source):
    """A limit on a file's size is met by the system's calls as a full disk is: a write fails."""
    monstrous = {130: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (2000, resource.RLIM_INFINITY))}

    def work():
        with pytest.raises(UserError, match=r"cannot be written \(File too large\).*TRIVIUM_CACHE"):
            written(source, monstrous)

    assert in_a_child(work) == 0
    found = cache(source)
    found.refresh()
    assert found.index.shards
    assert not found.index.finished
    assert not list(found.folder.glob("*.arrow.*.part"))
    assert columns(written(source)) == expected()


def test_who_reads_while_it_is_written_is_told_of_the_full_disk(source):
    def work():
        found = cache(
            source, {0: lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (0, resource.RLIM_INFINITY))}
        )
        found.write_behind(strict=True)  # the index cannot tell of it either
        with pytest.raises(UserError, match="File too large"):
            found.wait(lambda: False)

    assert in_a_child(work) == 0


def test_a_folder_that_is_a_file_is_told_in_a_line(source, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "file"))
    refused(source, errno.ENOTDIR)


def without_rights(work):
    """The work of a user who may read everything and write nothing (root may always write)."""

    def reduced():
        if os.getuid() == 0:
            os.setgid(65534)
            os.setuid(65534)
        work()

    return reduced


def readable(folder: Path) -> None:
    """Lets everybody read a folder and nobody write, and pass through those above it."""
    for parent in [*folder.parents][:4]:
        if parent.stat().st_uid == os.getuid() and parent != Path("/"):
            parent.chmod(parent.stat().st_mode | 0o755)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o555 if path.is_dir() else 0o444)


@pytest.fixture
def read_only(tmp_path):
    """Makes the cache read-only, and writable again at the end."""
    yield lambda: readable(tmp_path / "cache")
    for path in [tmp_path / "cache", *(tmp_path / "cache").rglob("*")]:
        path.chmod(0o755)


def test_a_complete_cache_that_is_read_only_is_used(source, read_only):
    written(source)
    read_only()

    def work():
        token_cache.Checks.known.clear()
        assert columns(written(source, {0: lambda: RuntimeError("tokenised again")})) == expected()

    assert in_a_child(without_rights(work)) == 0


def test_a_read_only_cache_that_is_damaged_or_missing_is_told_in_a_line(source, tmp_path, rows, read_only):
    found = written(source)
    zeroed(1000, 10)(shards(found)[0])
    other = rows(tmp_path / "other.jsonl", [{"text": "other"}])
    read_only()

    def work():
        token_cache.Checks.known.clear()
        for path in (source, other):
            refused(path, errno.EACCES)

    assert in_a_child(without_rights(work)) == 0


# --- two at a time


def test_who_waits_for_another_writer_says_so(source, told, monkeypatch):
    monkeypatch.setattr(token_cache, "PATIENCE", 0.01)
    waits, goes_on = threading.Event(), threading.Event()
    monkeypatch.setattr(token_cache, "rank_zero_info", lambda line: (told.append(line), goes_on.set()))
    first = cache(source, {50: lambda: None if (waits.set(), goes_on.wait(60))[1] else RuntimeError("alone")})
    thread = threading.Thread(target=first.write, args=(True,))
    thread.start()
    assert waits.wait(60)
    assert columns(written(source)) == expected()
    thread.join(60)
    assert [line.split(" that writes")[0] for line in told] == ["data.train: waiting for another process"]


def test_the_lock_of_a_process_that_was_killed_does_not_block(source, told):
    assert in_a_child(lambda: written(source, {120: lambda: os._exit(9)})) == 9
    assert cache(source).folder.with_suffix(".lock").exists()
    assert columns(written(source)) == expected()
    assert not told


def test_who_reads_from_a_writer_that_was_killed_does_not_wait_for_ever(source, monkeypatch):
    monkeypatch.setattr(token_cache, "PATIENCE", 0.05)
    assert in_a_child(lambda: written(source, {120: lambda: os._exit(9)})) == 9
    with pytest.raises(UserError, match="the process that wrote its token cache ended"):
        cache(source).wait(lambda: False)


def test_a_source_that_changes_while_it_is_read_is_refused(source):
    def grow():
        with open(source, "a") as file:
            file.write('{"text": "more"}\n')

    with pytest.raises(UserError, match="changed while it was read"):
        written(source, {100: grow})
    Path(source).write_text("".join(Path(source).read_text().splitlines(keepends=True)[:200]))
    assert columns(written(source)) == expected()


# --- memory


@pytest.mark.parametrize(
    "row",
    [
        {"text": "x" * 5000},
        {"messages": [{"role": "user", "content": "x" * 2500}, {"role": "assistant", "content": "x" * 2500}]},
        {"replies": ["x" * 1000] * 5},
        {"input_ids": list(range(625))},  # a number takes 8 bytes
        {"tools": {"a": {"b": [["x" * 5000]]}}},
    ],
)
def test_a_batch_holds_so_many_bytes_however_they_are_nested(row, monkeypatch):
    monkeypatch.setattr(writer, "BATCH_ROWS", 1000)
    monkeypatch.setattr(writer, "BATCH_CHARACTERS", 20_000)
    records = enumerate(Record("x", row, None) for _ in range(40))
    assert [len(batch) for batch in _in_batches(records)] == [4] * 10
