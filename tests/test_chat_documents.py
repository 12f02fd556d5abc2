"""`trivium chat --documents`: passages in the prompt as far as they fit, and where a reply came from."""

import json

import pytest

from experiments.chat.engine import Engine
from experiments.cli.program import main
from experiments.cli.user_errors import UserError
from experiments.commands.chat_documents import Reading, sources
from experiments.retrieval.index import BM25, Hit
from experiments.retrieval.passages import Passage
from experiments.retrieval.prompts import RESTRICTIONS

TEXTS = ["Green tea is made in China.", "Tea is hot. " * 30, "Black tea is made in India."]
PASSAGES = [Passage(text, f"tea.txt:{number}") for number, text in enumerate(TEXTS, 1)]
QUESTION = "Where is green tea made?"


def asked(room, count=3, question=QUESTION):
    """What is asked of a model with so much room, in characters."""
    return Reading(BM25(PASSAGES), count, restrict=False).ask(question, lambda text: room - len(text))


def test_the_best_passages_that_fit_are_asked_beside():
    assert [hit.passage.source for hit in asked(1000).hits] == ["tea.txt:1", "tea.txt:3", "tea.txt:2"]
    assert [hit.passage.source for hit in asked(1000, count=1).hits] == ["tea.txt:1"]
    fitting = asked(160)
    assert [hit.passage.source for hit in fitting.hits] == ["tea.txt:1", "tea.txt:3"]
    assert len(fitting.text) <= 160
    assert fitting.text.index(TEXTS[0]) < fitting.text.index(TEXTS[2]) < fitting.text.index(QUESTION)


def test_a_prompt_without_room_is_refused_in_a_line():
    bare = len(asked(1000, question="zebra").text)  # no passage has the word
    with pytest.raises(UserError, match="the question and the reply are 1 tokens too long"):
        asked(bare - 1, question="zebra")
    question_alone = len("Answer the question.\nQuestion: ") + len(QUESTION)
    with pytest.raises(UserError, match="no passage fits beside the question and the reply, the shortest is"):
        asked(question_alone)


def test_the_source_with_most_of_the_replys_words_is_marked():
    hits = [Hit(PASSAGES[0], 2.5), Hit(PASSAGES[2], 1.25)]
    assert sources(hits, "It is made in India: black.") == [
        "  tea.txt:1  score 2.50, 2 of the reply's 5 words",  # made, in; `is` only joins
        "> tea.txt:3  score 1.25, 4 of the reply's 5 words",
    ]
    assert [line[0] for line in sources(hits, "zebra")] == [" ", " "]
    assert sources([], "zebra") == ["  no passage has a word of the question"]


@pytest.fixture(scope="module")
def model(tmp_path_factory, tiny_tokenizer, tiny_config):
    """The directory of a random network with 256 positions."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    folder = str(tmp_path_factory.mktemp("model"))
    tokenizer = AutoTokenizer.from_pretrained(tiny_tokenizer)
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {**tiny_config, "max_position_embeddings": 256, "vocab_size": len(tokenizer)}
    AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes)).save_pretrained(folder)
    return folder


@pytest.fixture
def prompts(monkeypatch):
    """The ids that a network is asked to continue, and by how many, in the order of the turns."""
    seen, submit = [], Engine.submit

    def watch(engine, requests):
        seen.extend((request.prompt, request.settings.max_tokens) for request in requests)
        return submit(engine, requests)

    monkeypatch.setattr(Engine, "submit", watch)
    return seen


@pytest.fixture
def notes(tmp_path):
    file = tmp_path / "notes.jsonl"
    texts = ["the film is good", "the music is sad", "电影很好"]
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return str(file)


def test_a_chat_reads_documents_in_every_turn(model, notes, prompts, monkeypatch, capsys):
    from datamodules.rendering.tokenizer import load_tokenizer

    turns = iter(["film", "电影怎么样？", ""])
    monkeypatch.setattr("builtins.input", lambda _: next(turns))
    assert main(["chat", model, "--documents", notes, "--restrict", "--max-new-tokens", "8"]) == 0
    output = capsys.readouterr()
    assert output.err.splitlines()[0] == "trivium: 3 passages from 1 file"
    assert f"{notes}:1  score " in output.out
    assert f"{notes}:3  score " in output.out
    tokenizer = load_tokenizer(model)
    english, chinese = (tokenizer.decode(ids) for ids, _ in prompts)
    assert "the film is good" in english
    assert RESTRICTIONS["en"][0].wording in english
    assert "电影很好" in chinese
    assert RESTRICTIONS["zh"][0].wording in chinese
    assert "film" not in chinese  # each question stands alone
    assert all(len(ids) + size <= 256 for ids, size in prompts)


def test_a_long_reply_takes_the_room_of_passages(model, notes, prompts, capsys):
    """Of the two passages that have the word, both fit until the reply is one token too long for it."""

    def sources_of(reply):
        capsys.readouterr()
        line = ["chat", model, "--documents", notes, "--prompt", "the", "--max-new-tokens", str(reply)]
        assert main(line) == 0
        ids, size = prompts[-1]
        assert len(ids) + size <= 256
        assert size == reply
        return capsys.readouterr().out.count(f"{notes}:")

    assert sources_of(8) == 2
    most = 256 - len(prompts[-1][0])
    assert sources_of(most) == 2
    assert sources_of(most + 1) == 1
    assert main(["chat", model, "--documents", notes, "--prompt", "the", "--max-new-tokens", "250"]) == 2
    assert "tokens too long: give a shorter question" in capsys.readouterr().err.splitlines()[-1]


@pytest.mark.parametrize(
    ("options", "line"),
    [
        (["--restrict"], "--restrict is about documents: name them with --documents"),
        (["--embeddings", "x"], "--embeddings is about documents: name them with --documents"),
        (["--documents", "x", "--passages", "0"], "--passages is 0: give 1 or more"),
        (["--documents", "nowhere"], "--documents: no documents found: nowhere does not exist"),
    ],
)
def test_options_that_cannot_be_meant_are_refused(model, options, line, capsys):
    assert main(["chat", model, "--prompt", "the", *options]) == 2
    assert capsys.readouterr().err == f"trivium: {line}\n"
