"""The token cache: named by content, complete or not there, written once, readable while it grows."""

import multiprocessing
import os
import threading
import time
from pathlib import Path

import pyarrow as pa
import pytest
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import AutoTokenizer, PreTrainedTokenizerFast

from datamodules import InstructionTemplate, Policies, PreferenceData
from datamodules.caching import writer
from datamodules.caching.blocks import SourceBlocks
from datamodules.caching.token_cache import TokenCache
from datamodules.corpus import DocumentEncoder
from datamodules.instruction import InstructionData
from datamodules.rendering.segments import BadRow, DropRow
from tests.letters import Letters, cache, columns, expected, fail, texts, written

FORK = multiprocessing.get_context("fork")


@pytest.fixture(autouse=True)
def small_shards(tmp_path, monkeypatch):
    """A cache of its own; a batch of 10 rows, 3 to 5 of them a shard."""
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(writer, "BATCH_ROWS", 10)
    monkeypatch.setattr(writer, "SHARD_BYTES", 4000)


@pytest.fixture
def source(tmp_path, rows):
    return rows(tmp_path / "source.jsonl", [{"text": text} for text in texts()])


def elsewhere(tmp_path, monkeypatch):
    """From now on another, empty cache."""
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "other"))


# --- what is written


def test_all_rows_are_there_with_their_numbers_and_counted(source):
    found = written(source)
    assert columns(found) == expected()
    index = found.index
    assert len(index.shards) > 3  # the shards of this file are small enough to tell
    assert (sum(index.shards), index.rows, index.kept, index.finished) == (200, 200, 200, True)
    assert index.tokens == sum(map(len, texts()))
    assert index.weight == index.tokens - 200


def test_rows_that_are_left_out_are_counted_with_the_first_places(source):
    at = {n: lambda: DropRow("too odd") for n in range(20, 40)} | {7: lambda: BadRow("no `text`")}
    found = cache(source, at)
    found.write(strict=False)
    kept = [n for n in range(200) if n not in at]
    assert columns(found)["number"] == kept
    assert (found.index.dropped, found.index.refused) == ({"too odd": 20}, {"no `text`": 1})
    assert found.index.examples["no `text`"] == [f"{source}:8: no `text`"]
    assert len(found.index.examples["too odd"]) == 5
    assert (found.index.rows, found.index.kept) == (200, len(kept))


def test_what_was_written_before_is_not_written_again(source):
    written(source)
    again = written(source, {0: fail})
    assert columns(again) == expected()


# --- the key


def folder(path, encoder=None):
    return TokenCache(path, "data.train", encoder or Letters()).folder


def test_the_same_bytes_elsewhere_are_the_same_cache_and_other_bytes_another(tmp_path, source):
    copy = tmp_path / "deep" / "copy.jsonl"
    copy.parent.mkdir()
    content = Path(source).read_bytes()
    copy.write_bytes(content)
    assert folder(str(copy)) == folder(source)
    names = {folder(source)}
    for place in (10, len(content) // 2, len(content) - 5):  # letters of a text
        copy.write_bytes(content[:place] + b"~" + content[place + 1 :])
        names.add(folder(str(copy)))
    copy.write_bytes(content[:-1])  # without the last line end
    names.add(folder(str(copy)))
    names.add(folder([source, str(copy)]))
    names.add(folder([str(copy), source]))
    assert len(names) == 7


class LikeLetters(Letters):
    key = "letters, but capital"


def test_another_encoding_or_other_columns_are_another_cache(source):
    encoders = [Letters(), LikeLetters(), Letters(more=pa.int32())]
    assert len({folder(source, encoder) for encoder in encoders}) == 3


@pytest.fixture
def keyed(tmp_path, rows, tiny_tokenizer):
    """The folder of an SFT source with some options."""
    file = rows(tmp_path / "sft.jsonl", [{"instruction": "Write.", "output": "a film", "task": "x"}] * 3)

    def name(**options):
        data = InstructionData(file, **{"tokenizer": tiny_tokenizer, "max_length": 64, **options})
        before = set((tmp_path / "cache" / "tokens").glob("*/"))
        data.setup()
        after = set((tmp_path / "cache" / "tokens").glob("*/"))
        return after - before

    return name


def test_tokenizer_template_length_and_policies_are_in_the_key_of_instructions(
    keyed, tmp_path, tiny_tokenizer
):
    assert len(keyed()) == 1
    assert not keyed()  # nothing new
    assert not keyed(global_batch_size=2, seed=3, packing=128)  # these do not change the rows
    other = AutoTokenizer.from_pretrained(tiny_tokenizer)
    other.add_tokens(["film"])
    other.save_pretrained(tmp_path / "other_tokens")
    chat = AutoTokenizer.from_pretrained(tiny_tokenizer)
    chat.chat_template = chat.chat_template.replace("Response", "Answer")
    chat.save_pretrained(tmp_path / "other_template")
    for options in (
        {"tokenizer": str(tmp_path / "other_tokens")},
        {"tokenizer": str(tmp_path / "other_template")},
        {"template": InstructionTemplate(style="llama2")},
        {"template": InstructionTemplate(system="Be brief.")},
        {"max_length": 65},
        {"group_by": ["task"]},
        {"policies": Policies(long_prompt="truncate_left")},
        {"policies": Policies(empty_reply="error")},
    ):
        assert len(keyed(**options)) == 1, options


def test_length_template_and_packing_are_in_the_key_of_preferences(tmp_path, rows, tiny_tokenizer):
    """Packed, a prompt is as long as all its replies; else as the longest of them."""
    file = rows(tmp_path / "p.jsonl", [{"instruction": "Write.", "replies": ["good", "a dull film"]}] * 3)
    names, options = set(), {"tokenizer": tiny_tokenizer, "max_length": 64}
    for more in ({}, {"max_length": 65}, {"packing": 256}, {"template": InstructionTemplate(system="Be.")}):
        data = PreferenceData(file, **{**options, **more})
        data.setup()
        names = set((tmp_path / "cache" / "tokens").glob("*/"))
    assert len(names) == 4


def short(row):
    return row["text"][:5]


def test_the_texts_column_or_function_is_in_the_key_of_documents(source, tiny_tokenizer):
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    names = [folder(source, DocumentEncoder(tokenizer, text)) for text in ("text", "body", short)]
    assert len(set(names)) == 3
    assert names[2] == folder(source, DocumentEncoder(tokenizer, short))


def prefixed(prefix):
    return lambda row: prefix + row["text"]


def test_what_a_texts_function_captured_is_in_the_key_too(source, tiny_tokenizer):
    """Else the second mixture would silently train on the first one's texts."""
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    names = [folder(source, DocumentEncoder(tokenizer, prefixed(prefix))) for prefix in ("Q: ", "A: ")]
    assert names[0] != names[1]


# --- interrupted


@pytest.mark.parametrize("row", [0, 57, 123, 199])
def test_a_write_that_fails_keeps_its_complete_shards_and_goes_on_to_the_same_cache(
    source, tmp_path, monkeypatch, row
):
    found = cache(source, {row: fail})
    with pytest.raises(RuntimeError, match="the disk is full"):
        found.write(strict=True)
    seen = cache(source)
    seen.refresh()
    assert not seen.index.finished
    if row >= 123:
        assert seen.index.shards
    rows = seen.index.kept
    assert rows <= row - row % 10  # nothing of the batch that failed
    assert seen.index.rows == rows
    if rows:
        assert columns(seen) == expected(texts()[:rows])
    shards = [file.stat().st_mtime_ns for file in sorted(seen.folder.glob("*.arrow"))]
    assert len(shards) == len(seen.index.shards)

    encoded = []
    again = cache(source, {n: lambda n=n: encoded.append(n) for n in range(200)})
    again.write(strict=True)
    assert sorted(encoded) == list(
        range(rows, 200)
    )  # several threads at once; goes on, and begins nothing anew
    kept = [file.stat().st_mtime_ns for file in sorted(seen.folder.glob("*.arrow"))]
    assert kept[: len(shards)] == shards
    assert not list(seen.folder.glob("*.part"))
    elsewhere(tmp_path, monkeypatch)
    whole = written(source)
    assert columns(again) == columns(whole) == expected()
    for number in ("rows", "kept", "tokens", "weight", "truncated", "dropped", "refused", "finished"):
        assert getattr(again.index, number) == getattr(whole.index, number)
    assert again.index.failure == ""


def test_counts_of_rows_left_out_go_on_too(source):
    odd = {n: lambda: DropRow("odd") for n in range(0, 200, 3)}
    with pytest.raises(RuntimeError):
        cache(source, {**odd, 157: fail}).write(strict=True)
    again = cache(source, odd)
    again.write(strict=True)
    assert again.index.dropped == {"odd": 67}  # 0, 3, …, 198
    assert columns(again)["number"] == [n for n in range(200) if n % 3]


def test_a_process_killed_while_it_writes_leaves_complete_shards_to_go_on_from(source):
    """No `finally` runs and nothing is flushed, as in a power cut."""
    process = FORK.Process(target=lambda: written(source, {165: lambda: os._exit(9)}))
    process.start()
    process.join(60)
    assert process.exitcode == 9
    seen = cache(source)
    seen.refresh()
    rows = seen.index.kept
    assert 0 < rows < 165
    assert columns(seen) == expected(texts()[:rows])
    assert columns(written(source)) == expected()


# --- two at a time


def test_two_processes_that_write_the_same_cache_write_it_once(source, tmp_path):
    """Each notes the rows that it encodes; a pause makes sure that both are at it."""
    start = FORK.Barrier(2)

    def work(name):
        with open(tmp_path / name, "w") as log:
            at = {n: lambda n=n: (time.sleep(0.001), print(n, file=log), None)[-1] for n in range(200)}
            start.wait(30)
            assert columns(written(source, at)) == expected()

    processes = [FORK.Process(target=work, args=(name,)) for name in ("one", "two")]
    for process in processes:
        process.start()
    for process in processes:
        process.join(60)
    assert [process.exitcode for process in processes] == [0, 0]
    logs = [sorted(map(int, (tmp_path / name).read_text().split())) for name in ("one", "two")]
    assert sorted(logs, key=len) == [[], list(range(200))]


# --- read while it is written


def test_blocks_read_early_equal_those_read_after_the_end(source):
    """The writer, a thread, stops at a row until the gate is opened."""
    opened = threading.Event()
    growing = cache(source, {130: lambda: None if opened.wait(60) else fail()})
    growing.write_behind(strict=True)
    growing.wait(lambda: growing.index.tokens >= 32)
    early = SourceBlocks(growing, 32, keep_tail=False)
    early.wait_for(8)
    assert not early.complete
    ready = len(early)
    before = [(early[block], early.targets(block)) for block in range(ready)]
    opened.set()
    early.wait_for(10**9)  # until the end
    assert early.complete
    late = SourceBlocks(written(source), 32, keep_tail=False)
    letters = [ord(letter) for text in texts() for letter in text]
    assert len(late) == len(early) == len(letters) // 32 > ready >= 8
    for block in range(len(late)):
        ids, documents = late[block]
        assert ids.tolist() == letters[block * 32 : block * 32 + 32]
        (again, owners), targets = before[block] if block < ready else (early[block], early.targets(block))
        assert again.tolist() == ids.tolist()
        assert owners.tolist() == documents.tolist()
        assert targets == late.targets(block)


def test_a_blocks_documents_and_targets_are_those_of_the_texts(source):
    blocks = SourceBlocks(written(source), 32, keep_tail=True)
    owners = [number for number, text in enumerate(texts()) for _ in text]
    assert len(blocks) == -(-len(owners) // 32)
    for block in range(len(blocks)):
        part = owners[block * 32 : block * 32 + 32]
        _, documents = blocks[block]
        counted = [document - part[0] for document in part]  # from 0 in each block; no text is empty
        assert documents.tolist() == counted + [-1] * (32 - len(part))
        assert blocks.targets(block) == len(part) - len(set(part))  # the first of each is not predicted


def test_the_failure_of_a_writer_reaches_who_waits(source):
    found = cache(source, {120: fail})
    found.write_behind(strict=True)
    with pytest.raises(RuntimeError, match="the disk is full"):  # no user's mistake
        found.wait(lambda: False)
    assert found.index.kept > 0  # what was complete before can still be read
    assert columns(found) == expected(texts()[: found.index.kept])


def test_a_row_that_is_refused_reaches_who_waits_with_its_place(source):
    found = cache(source, {50: lambda: BadRow("no `text`")})
    found.write_behind(strict=True)
    with pytest.raises(ValueError, match=r"data\.train: .*source\.jsonl.*51.*no `text`"):
        found.wait(lambda: False)


def test_a_failure_that_is_over_does_not_reach_who_waits_for_the_next_writer(source):
    """The disk was full, now it is not: the message of the writer before is no reason to stop."""
    with pytest.raises(RuntimeError):
        cache(source, {120: fail}).write(strict=True)
    found = cache(source)
    found.write_behind(strict=True)
    found.wait(lambda: False)
    assert found.index.finished
    assert columns(found) == expected()


def test_a_toy_tokenizer_without_special_tokens_has_a_key_too(source):
    plain = PreTrainedTokenizerFast(tokenizer_object=Tokenizer(models.WordLevel({"a": 0, "?": 1}, "?")))
    plain.backend_tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    plain.eos_token = "?"
    assert folder(source, DocumentEncoder(plain, "text")) != folder(source)
