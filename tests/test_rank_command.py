"""`trivium rank`: replies are sampled once and can be sampled again, and what cannot be is refused in one
line before anything is written."""

import json
import os
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import httpx
import pytest

from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.web.rank.command import check, items_of, parser
from experiments.web.rank.ledger import Ledger
from experiments.web.rank.prompts import read_prompts, read_replies
from tests.ranking import rank, session

ROOT = Path(__file__).resolve().parent.parent


PAGE = (ROOT / "experiments" / "docs" / "rank.md").read_text(encoding="utf-8")


def items(*options):
    asked = parser().parse_args([str(option) for option in options])
    check(asked)
    return items_of(asked)


@pytest.fixture
def prompts(tmp_path, rows):
    return rows(
        tmp_path / "prompts.jsonl",
        [
            {"instruction": "Write.", "reply_prefix": "the film"},
            {"instruction": "Write good.", "input": "a story"},
            {"messages": [{"role": "user", "content": "Hi"}, {"role": "assistant", "content": "left out"}]},
        ],
    )


def test_replies_come_from_the_models_in_turn_and_are_sampled_once(
    tiny_stages, prompts, tmp_path, monkeypatch
):
    models = ["--models", tiny_stages.export("sft"), tiny_stages.export("ppo")]
    asked = ["--prompts", prompts, *models, "--k", 3, "--max-new-tokens", 8]
    first = items(*asked, "--output", tmp_path / "a.jsonl")
    assert [item.models for item in first] == [
        ("sft", "ppo", "sft"),
        ("ppo", "sft", "ppo"),
        ("sft", "ppo", "sft"),
    ]
    assert all(reply.startswith("the film") for reply in first[0].replies)
    assert [item.prompt for item in first] == [
        {"instruction": "Write."},
        {"instruction": "Write good.", "input": "a story"},
        {"messages": [{"role": "user", "content": "Hi"}]},
    ]
    assert len({seed for item in first for seed in item.seeds}) == 9
    other = items(*asked, "--output", tmp_path / "b.jsonl", "--seed", 1)
    assert [item.replies for item in other] != [item.replies for item in first]
    # half of it is there after a crash: the rest is sampled as it would have been
    kept = (tmp_path / "a.replies.jsonl").read_bytes()
    (tmp_path / "a.replies.jsonl").write_bytes(kept[: kept.index(b"\n") + 30])
    assert items(*asked, "--output", tmp_path / "a.jsonl") == first
    assert (tmp_path / "a.replies.jsonl").read_bytes() == kept
    monkeypatch.setattr("experiments.web.rank.sampling._load", None)  # nothing is loaded any more
    assert items(*asked, "--output", tmp_path / "a.jsonl") == first
    assert read_replies(str(tmp_path / "a.replies.jsonl")) == first


def test_a_reply_depends_on_its_seed_and_prompt_alone(tiny_stages, tmp_path, rows):
    model = ["--models", tiny_stages.export("sft"), "--max-new-tokens", 8]
    texts = [{"instruction": f"Write {'good ' * n}"} for n in range(5)]
    both = items("--prompts", rows(tmp_path / "five.jsonl", texts), *model, "--output", tmp_path / "a.jsonl")
    last = items(
        "--prompts", rows(tmp_path / "one.jsonl", texts[4:]), *model, "--output", tmp_path / "b.jsonl"
    )
    assert both[4] == last[0]


def test_temperature_zero_is_the_likeliest_reply(tiny_stages):
    from experiments.evaluation.engine import Model
    from experiments.web.rank.sampling import write

    model = Model.load(tiny_stages.export("sft"), "sft")
    texts = ["Hi", "Write good.", "Write the film is slow and sad."]
    rows = [{"instruction": text} for text in texts]
    assert write(model, rows, [0, 1, 2], 0.0, 8) == [reply.text for reply in model.replies(texts, 8)]


@pytest.mark.parametrize(
    ("change", "reason"),
    [
        (["--temperature", 0.5], "--temperature: the replies in"),
        (["--prefix", "a"], "--prefix: the replies in"),
        (["--k", 2], "--k: the replies in"),
        (["--models", "PPO"], "--models: the replies in"),
        (["--models", "sft=PPO"], "sampled with other weights"),
    ],
)
def test_replies_that_were_sampled_otherwise_are_not_mixed(tiny_stages, prompts, tmp_path, change, reason):
    asked = ["--prompts", prompts, "--max-new-tokens", 8, "--output", tmp_path / "a.jsonl"]
    items(*asked, "--models", tiny_stages.export("sft"), "--k", 3)
    change = [str(part).replace("PPO", tiny_stages.export("ppo")) for part in change]
    rest = {"--models": tiny_stages.export("sft"), "--k": 3} | dict(
        zip(change[::2], change[1::2], strict=True)
    )
    with pytest.raises(UserError, match=reason):
        items(*asked, *(part for pair in rest.items() for part in pair))


REPLIES = {
    "replies": ({"instruction": "x", "replies": ["a", "b"]}, (None, None)),
    "with models": ({"instruction": "x", "replies": ["a", "b"], "models": ["m", None]}, ("m", None)),
    "rated ones": ({"instruction": "x", "replies": ["a", "b"], "ratings": [1, 2]}, (None, None)),
    "UltraFeedback": (
        {
            "instruction": "x",
            "completions": [{"response": "a", "model": "m"}, {"response": "b", "model": "n"}],
        },
        ("m", "n"),
    ),
    "a conversation": (
        {"messages": [{"role": "user", "content": "x"}], "responses": ["a", "b"]},
        (None, None),
    ),
}


@pytest.mark.parametrize(("row", "models"), REPLIES.values(), ids=REPLIES)
def test_replies_are_read_as_people_have_them(tmp_path, rows, row, models):
    (item,) = read_replies(
        rows(
            tmp_path / "r.jsonl",
            [
                row,
                row,
                {**row, next(iter(row.keys() - {"instruction", "messages", "models", "ratings"})): ["c", "c"]}
                | {"models": None},
            ],
        )
    )
    assert (item.replies, item.models) == (("a", "b"), models)
    assert item.turns == [{"role": "user", "text": "x"}]


def test_replies_continue_their_prefix(tmp_path, rows):
    row = {"instruction": "x", "reply_prefix": "It is", "replies": [" a", " b"]}
    (item,) = read_replies(rows(tmp_path / "r.jsonl", [row]))
    assert (item.replies, item.prompt) == (("It is a", "It is b"), {"instruction": "x"})


BAD_ROWS = {
    "--prompts: FILE:1: empty `instruction`": {"instruction": " "},
    "--prompts: FILE:1: no `instruction` and no `messages`": {"text": "x"},
    "--replies: FILE:1: no `replies`": {"instruction": "x"},
    "--replies: FILE:1: `replies` are 1: give 2 to 9": {"instruction": "x", "replies": ["a"]},
    "--replies: FILE:1: `replies` are 10: give 2 to 9": {"instruction": "x", "replies": [*"abcdefghij"]},
    "--replies: FILE:1: one of `replies` is no text": {"instruction": "x", "replies": ["a", 3]},
    "--replies: FILE:1: `models` are not one for each": {
        "instruction": "x",
        "replies": ["a", "b"],
        "models": ["m"],
    },
    "--replies: FILE:1: `models` holds something else": {
        "instruction": "x",
        "replies": ["a", "b"],
        "models": [1, 2],
    },
    "--replies: FILE has no prompt with two different": {"instruction": "x", "replies": ["a", "a "]},
}


@pytest.mark.parametrize(("reason", "row"), BAD_ROWS.items())
def test_a_row_that_cannot_be_ranked_is_named(tmp_path, rows, reason, row):
    file = rows(tmp_path / "rows.jsonl", [row])
    read = read_prompts if reason.startswith("--prompts") else read_replies
    with pytest.raises(UserError) as error:
        read(file)
    assert str(error.value).startswith(reason.replace("FILE", file))


P, M, R = ["--prompts", "p.jsonl"], ["--models", "none"], ["--replies", "r.jsonl"]
LINES = {
    "rank: give --prompts FILE with --models DIR, or --replies FILE": [],
    "rank: give --prompts FILE with": [*P, *M, *R],
    "--models: name one or more": P,
    "--prompts: p.jsonl does not exist": [*P, *M],
    "--replies: r.jsonl does not exist": R,
    "--k is 1: give 2 to 9": [*P, *M, "--k", "1"],
    "--k is 10: give 2 to 9": [*P, *M, "--k", "10"],
    "--k is of sampling": [*R, "--k", "2"],
    "--prefix is of sampling": [*R, "--prefix", "a"],
    "--temperature is -1.0: give 0 or more": [*P, *M, "--temperature", "-1"],
    "--temperature is nan": [*P, *M, "--temperature", "nan"],
    "--temperature is 0, so a model gives one reply only": [*P, *M, "--temperature", "0"],
    "--max-new-tokens is 0": [*P, *M, "--max-new-tokens", "0"],
    "--overlap is 0": [*R, "--overlap", "0"],
    "--output is 'ranks.txt'": [*R, "--output", "ranks.txt"],
    "--port is 70000": [*R, "--port", "70000"],
}


@pytest.mark.parametrize(("reason", "line"), LINES.items())
def test_a_mistake_is_one_line_and_leaves_nothing(tmp_path, monkeypatch, capsys, reason, line):
    monkeypatch.chdir(tmp_path)
    assert main(["rank", *line, *([] if "--port" in line else ["--port", "0"])]) == 2
    (told,) = capsys.readouterr().err.splitlines()
    assert told.startswith(f"trivium: {reason}")
    assert list(tmp_path.iterdir()) == []


def test_a_model_that_is_missing_or_writes_nothing_is_told(
    tiny_stages, prompts, tmp_path, monkeypatch, capsys
):
    monkeypatch.chdir(tmp_path)
    for model, reason in (("nowhere/x", "nowhere/x is no"), (tiny_stages.export("reward"), "reward")):
        assert main(["rank", "--prompts", prompts, "--models", model, "--port", "0"]) == 2
        (told,) = capsys.readouterr().err.splitlines()
        assert told.startswith("trivium: --models: ")
        assert reason in told
    assert not (tmp_path / "ranks.jsonl").exists()


def test_answers_to_other_prompts_are_not_gone_on_with(tmp_path, rows, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    people = session(tmp_path)
    rank(people, "Ann", "abcd")
    people.answers.close()
    before = (tmp_path / "ranks.jsonl").read_bytes()
    rows(tmp_path / "r.jsonl", [{"instruction": "Question 0", "replies": ["a", "b"]}])
    assert main(["rank", "--replies", "r.jsonl", "--port", "0"]) == 2
    assert "1 of 1 answers in ranks.jsonl are to other prompts or replies" in capsys.readouterr().err
    assert (tmp_path / "ranks.jsonl").read_bytes() == before


def test_the_program_serves_goes_on_and_ends_on_an_interrupt(tmp_path, rows, warm_python):
    rows(tmp_path / "r.jsonl", [{"instruction": f"Q{n}", "replies": ["a", "b", "c"]} for n in range(3)])
    line = [sys.executable, "-m", "experiments.cli", "rank", "--replies", "r.jsonl", "--port", "0"]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    for count in (1, 2):
        server = subprocess.Popen(line, cwd=tmp_path, env=environment, stdout=subprocess.PIPE, text=True)
        try:
            said = server.stdout.readline()
            assert said == f"3 prompts, {count - 1} answers in ranks.jsonl\n"
            url = server.stdout.readline().strip()
            body = {"person": "Ann"}
            seen = httpx.post(f"{url}rank/next", json=body).json()
            answer = {**body, "item": seen["item"], "answer": "ranked", "levels": [1, 2, 2], "seconds": 3}
            progress = httpx.post(f"{url}rank/answer", json=answer).json()["progress"]
            assert progress == {"mine": count, "left": 3 - count, "answers": count, "wanted": 3}
        finally:
            server.send_signal(signal.SIGINT)
            code = server.wait(60)
        assert code == 0
    ledger = Ledger(tmp_path / "ranks.jsonl")
    assert [json.dumps(sorted(row["ratings"])) for row in ledger.lines] == ["[1.0, 1.0, 2.0]"] * 2
    ledger.close()


def test_an_interrupt_while_replies_are_sampled_keeps_them_and_ends_in_a_line(
    tiny_stages, tmp_path, rows, monkeypatch, capsys
):
    from experiments.web.rank import sampling

    asked = rows(tmp_path / "many.jsonl", [{"instruction": f"Write {'good ' * n}"} for n in range(5)])
    line = ["--prompts", asked, "--models", tiny_stages.export("sft"), "--k", 2, "--max-new-tokens", 4]
    line = [str(part) for part in [*line, "--output", tmp_path / "ranks.jsonl"]]
    write, called = sampling.write, []

    def interrupted(*arguments):
        called.append(1)
        if len(called) == 3:
            signal.raise_signal(signal.SIGINT)
        return write(*arguments)

    monkeypatch.setattr(sampling, "TOGETHER", 2)
    monkeypatch.setattr(sampling, "write", interrupted)
    assert main(["rank", *line, "--port", "0"]) == 130
    assert "trivium: interrupted: what was sampled is kept" in capsys.readouterr().err
    kept = (tmp_path / "ranks.replies.jsonl").read_text("utf-8")
    assert kept.count("\n") == 4
    assert len(items(*line)) == 5
    assert len(called) == 4
    assert (tmp_path / "ranks.replies.jsonl").read_text("utf-8").startswith(kept)


COMMANDS = [
    line for block in re.findall(r"^```sh\n(.*?)^```$", PAGE, re.M | re.S) for line in block.splitlines()
]


@pytest.mark.parametrize("line", COMMANDS)
def test_every_command_of_the_page_is_accepted(line, monkeypatch):
    from experiments.cli.parser import ParseOnly, parse
    from experiments.web.access import add_options
    from experiments.web.rank.report_command import parser as report_parser

    monkeypatch.chdir(ROOT)
    program, name, *options = shlex.split(line)
    if program == "head":
        return
    assert program == "trivium"
    if name == "fit":
        parse([name, *options], ParseOnly)
    elif options[0] == "report":
        report_parser().parse_args(options[1:])
    else:
        commands = parser()
        add_options(commands)
        check(commands.parse_args(options))


def test_the_row_of_the_page_is_one_of_a_rank_file():
    from experiments.web.rank.answer import BEGINS, has_preference, problem
    from experiments.web.rank.appended import parsed

    (row,) = re.findall(r"^```json\n(.*?)\n```$", PAGE, re.M | re.S)
    line = parsed(row.encode(), BEGINS, problem)
    assert isinstance(line, dict), line
    assert has_preference(line)
    assert len(COMMANDS) == 7
