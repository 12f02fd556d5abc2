"""What people answer is kept at once, survives crashes, and is what a reward model is trained on."""

import json
import os
import resource
import signal
from dataclasses import replace

import pytest

from datamodules import PreferenceData
from datamodules.layouts.comparison import comparison
from datamodules.layouts.reader import RowReader
from datamodules.rendering.segments import BadRow
from experiments.cli.user_errors import UserError
from experiments.web.rank.ledger import Ledger, left_out
from experiments.web.rank.session import Already, Session, order
from tests.ranking import item, rank, session


def lines(folder, name="ranks.jsonl"):
    return [json.loads(line) for line in (folder / name).read_text(encoding="utf-8").splitlines()]


def test_a_ranking_is_a_row_of_preferences_beside_who_when_and_what_was_shown(tmp_path):
    people = session(tmp_path)
    asked = rank(people, "Ann", "cb=ad")
    (line,) = lines(tmp_path)
    assert line["ratings"] == [2.0, 2.0, 3.0, 1.0]  # a, b, c, d: c is best, a and b are tied
    assert (line["instruction"], line["replies"]) == ("Question 0", list(asked.replies))
    assert (line["person"], line["verdict"], line["seconds"]) == ("Ann", "ranked", 10.0)
    assert (line["models"], line["seeds"]) == (["sft", "ppo", "sft", "ppo"], [0, 1, 2, 3])
    assert sorted(line["shown"]) == [0, 1, 2, 3]
    assert line["time"].endswith("+00:00")


def test_preference_data_reads_the_file_as_it_is(tmp_path, tiny_tokenizer):
    people = session(tmp_path, count=8, overlap=2)
    for person in ("Ann", "Ben"):
        for answer in ("abcd", "a=b=cd", "dcba", "badc"):
            rank(people, person, answer)
        rank(people, person, "a=b=c=d")
        rank(people, person, kind="cannot say")
        rank(people, person, kind="flagged", remark="rude")
        rank(people, person, kind="skipped")
    data = PreferenceData(
        train=str(tmp_path / "ranks.jsonl"), tokenizer=tiny_tokenizer, global_batch_size=2, micro_batch_size=2
    )
    data.setup("fit")
    receipt = data.splits["train"].receipt
    assert (receipt.rows, receipt.kept, receipt.dropped) == (8, 8, {})
    assert [row["verdict"] for row in lines(tmp_path, "ranks.left-out.jsonl")][1:4] == [
        "cannot say",
        "flagged",
        "skipped",
    ]


def test_a_conversation_with_a_system_text_and_what_asks_nothing_else_is_read_as_it_is(tmp_path):
    turns = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Hello."},
        {"role": "user", "content": "And?"},
    ]
    for number, prompt in enumerate(
        [
            {"system": "Be kind.", "instruction": "Hi", "input": "there"},
            {"system": "Be kind.", "messages": turns},
        ]
    ):
        people = Session([replace(item(0), prompt=prompt)], Ledger(tmp_path / f"{number}.jsonl"), 1, 0)
        rank(people, "Ann", "abcd")
        (line,) = lines(tmp_path, f"{number}.jsonl")
        read = comparison(RowReader("preferences").read(line).row)
        assert {name: read.prompt[name] for name in prompt} == prompt
        assert read.ratings.tolist() == [4, 3, 2, 1]
        with pytest.raises(BadRow, match="no `output`"):  # nobody trains on "ranked" as an answer
            RowReader("instructions").read({**line, "messages": None, "instruction": "x"})


def test_copies_of_a_text_are_shown_once_and_tied(tmp_path):
    double = item(0, "x a", "x  b", "x a ", "x c")
    people = Session([double], Ledger(tmp_path / "ranks.jsonl"), 1, 0)
    assert len(people.next("Ann").shown) == 3
    rank(people, "Ann", "bac")
    assert lines(tmp_path)[0]["ratings"] == [2.0, 3.0, 2.0, 1.0]


def test_what_prefers_nothing_by_its_texts_is_left_out_too(tmp_path):
    blank = item(0, "x a", "x b", "  ")
    people = Session([blank], Ledger(tmp_path / "ranks.jsonl"), 1, 0)
    shown = people.next("Ann")
    level = {0: 1, 1: 1, 2: 2}  # the blank one is worse, the others are tied
    people.answer("Ann", blank.id, "ranked", [level[card] for card in shown.shown], 1.0)
    assert lines(tmp_path) == []
    assert len(lines(tmp_path, "ranks.left-out.jsonl")) == 1


def test_the_order_is_anew_for_each_person_and_the_same_again():
    orders = {(person, n): order(item(n), 0, person) for person in ("Ann", "Ben") for n in range(100)}
    assert orders == {(person, n): order(item(n), 0, person) for person, n in orders}
    differ = sum(orders["Ann", n] != orders["Ben", n] for n in range(100))
    assert 86 <= differ <= 100  # 23 of 24 are expected to: 95.8, with a deviation of 2.0
    first = [orders["Ann", n][0] for n in range(100)]
    assert all(7 <= first.count(card) <= 43 for card in range(4))  # 25 expected, with a deviation of 4.3


def test_each_prompt_is_seen_by_as_many_people_as_asked(tmp_path):
    people = session(tmp_path, count=6, overlap=2)
    names = ("Ann", "Ben", "Cho")
    while any(people.next(name) for name in names):
        for name in names:
            if people.next(name):
                rank(people, name, "abcd")
    seen = [(line["item"], line["person"]) for line in lines(tmp_path)]
    assert len(seen) == len(set(seen)) == 12
    assert {[i for i, _ in seen].count(name) for name in people.items} == {2}


def test_a_prompt_before_one_person_is_not_given_to_another_until_it_has_been_left_for_long(tmp_path):
    now = [0.0]
    people = session(tmp_path, count=1, now=lambda: now[0])
    held = people.next("Ann")
    assert people.next("Ben") is None
    assert people.next("Ann").item is held.item
    now[0] = 3600.0
    assert people.next("Ben").item is held.item
    rank(people, "Ben", "abcd")
    people.answer("Ann", held.item.id, "cannot say", [], 5.0)  # came back late: that counts as well
    assert people.next("Ann") is None


def test_what_is_skipped_comes_back_last(tmp_path):
    people = session(tmp_path)
    first = rank(people, "Ann", kind="skipped")
    assert rank(people, "Ann", "abcd").id != first.id
    people.answers.close()
    again = session(tmp_path)  # the server was started anew
    rank(again, "Ann", "abcd")
    assert rank(again, "Ann", "abcd").id == first.id
    assert again.next("Ann") is None
    assert again.progress("Ann") == (3, 0, 3, 3)


def test_undo_takes_back_ones_own_last_answer_and_shows_it_again(tmp_path):
    people = session(tmp_path, overlap=2)
    rank(people, "Ann", "abcd")
    second = rank(people, "Ann", "dc=ba", remark="")
    rank(people, "Ben", "abcd")
    assert people.undo("Ann")
    assert [(line["person"], line["item"] == second.id) for line in lines(tmp_path)] == [
        ("Ann", False),
        ("Ben", False),
    ]
    shown = people.next("Ann")
    assert shown.item is second
    letters = [second.replies[card].split()[1] for card in shown.shown]
    assert dict(zip(letters, shown.levels, strict=True)) == {"d": 1, "c": 2, "b": 2, "a": 3}
    assert people.undo("Ann")
    assert not people.undo("Ann")
    assert people.undo("Ben")
    assert lines(tmp_path) == []


def test_an_answer_is_taken_once(tmp_path):
    people = session(tmp_path)
    done = rank(people, "Ann", "abcd")
    with pytest.raises(Already):
        people.answer("Ann", done.id, "ranked", [1, 2, 3, 4], 1.0)
    assert len(lines(tmp_path)) == 1


@pytest.mark.parametrize("cut", [1, 7, 12, 200, -2])
def test_a_line_that_a_crash_cut_is_healed(tmp_path, cut):
    people = session(tmp_path)
    rank(people, "Ann", "abcd")
    rank(people, "Ann", "dcba")
    people.answers.close()
    file = tmp_path / "ranks.jsonl"
    first, second, _ = file.read_bytes().split(b"\n")
    file.write_bytes(first + b"\n" + second[:cut])
    people = session(tmp_path)
    assert "cut off by a crash" in people.answers.healed[0]
    assert file.read_bytes() == first + b"\n"
    rank(people, "Ann", "badc")
    assert len(lines(tmp_path)) == 2


def test_a_last_line_without_its_end_alone_is_kept(tmp_path):
    people = session(tmp_path)
    rank(people, "Ann", "abcd")
    people.answers.close()
    file = tmp_path / "ranks.jsonl"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1])
    assert not session(tmp_path).answers.healed
    assert file.read_bytes() == whole


def test_no_answer_that_was_taken_is_lost_by_a_kill(tmp_path):
    receipts, tells = os.pipe()
    writer = os.fork()
    if not writer:
        try:
            people = session(tmp_path, count=1000)
            while True:
                rank(people, "Ann", "abcd")
                os.write(tells, b".")
        finally:
            os._exit(1)
    os.close(tells)
    taken = len(os.read(receipts, 1))
    taken += len(os.read(receipts, 5))
    os.kill(writer, signal.SIGKILL)
    os.waitpid(writer, 0)
    while more := os.read(receipts, 1000):
        taken += len(more)
    people = session(tmp_path, count=1)
    assert taken <= len(people.answers.lines) <= taken + 1


def test_a_full_disk_keeps_what_is_there_and_says_so(tmp_path):
    people = session(tmp_path)
    rank(people, "Ann", "abcd")
    before = (tmp_path / "ranks.jsonl").read_bytes()
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + 100, hard))  # room for a part of a line
    try:
        with pytest.raises(OSError, match="too large"):
            rank(people, "Ann", "dcba")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, ignored)
    assert (tmp_path / "ranks.jsonl").read_bytes() == before
    rank(people, "Ann", "dcba")
    assert len(lines(tmp_path)) == 2


def test_a_second_server_on_a_file_is_refused(tmp_path):
    people = session(tmp_path)
    rank(people, "Ann", "abcd")
    people.undo("Ann")  # a new file has taken the old one's place, and is held too
    with pytest.raises(UserError, match="another `trivium rank` is writing"):
        Ledger(tmp_path / "ranks.jsonl")
    people.answers.close()
    Ledger(tmp_path / "ranks.jsonl").close()


OTHERS = {
    "prose": b"a file of my own",
    "rows": b'{"instruction": "x", "replies": ["a", "b"], "ratings": [1, 2]}\n',
    "a damaged line": b'{"verdict": "ranked", "person": 3}\n',
    "a torn line of others": b'{"verdict": "ranked", "person": 3}\n{"verd',
    "binary": b"\x00\xff\x01",
    "NULs": b"\x00" * 30 + b"\n",
}


@pytest.mark.parametrize("data", OTHERS.values(), ids=OTHERS)
def test_another_kind_of_file_is_refused_and_left_as_it_is(tmp_path, data):
    file = tmp_path / "ranks.jsonl"
    file.write_bytes(data)
    with pytest.raises(UserError, match=r"ranks\.jsonl:1 is no line that `trivium rank` wrote"):
        Ledger(file)
    assert file.read_bytes() == data


def test_a_place_that_cannot_be_written_is_told(tmp_path):
    (tmp_path / "file").touch()  # in the place of a folder; root may write into any
    with pytest.raises(UserError, match="cannot be written"):
        Ledger(tmp_path / "file" / "ranks.jsonl")


def test_the_other_file_lies_beside(tmp_path):
    assert left_out(tmp_path / "ranks.jsonl") == tmp_path / "ranks.left-out.jsonl"
