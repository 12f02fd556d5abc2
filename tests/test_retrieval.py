"""The right passages are found, in both languages, by BM25 as published or embeddings; the index is kept."""

import json
import math

import numpy as np
import pytest

from experiments.cli.user_errors import UserError
from experiments.retrieval import index, library
from experiments.retrieval.index import BM25, Embeddings, best_places
from experiments.retrieval.library import open_library
from experiments.retrieval.passages import Passage
from experiments.retrieval.terms import query_terms, terms

TEXTS = [
    "Green tea comes from China.",
    "Black tea, too, comes from China; tea is old.",
    "Coffee comes from Ethiopia.",
    "绿茶产自中国。",
    "咖啡产自埃塞俄比亚。",
]
PASSAGES = [Passage(text, f"notes.txt:{number}") for number, text in enumerate(TEXTS, 1)]


def found(retriever, query, count=5):
    """The numbers of the passages that a query finds, from 1."""
    return [PASSAGES.index(hit.passage) + 1 for hit in retriever.search([query], count)[0]]


def test_words_are_lower_case_and_characters_come_in_pairs():
    assert terms("Tea-leaves, ＴＥＡ 2x") == ["tea", "leaves", "tea", "2x"]
    assert terms("喝绿茶 tea茶") == ["喝绿", "绿茶", "喝", "绿", "茶", "tea", "茶"]
    assert query_terms("喝绿茶 茶") == ["喝绿", "绿茶", "茶"]


def test_a_question_is_searched_by_what_it_is_about():
    assert query_terms("What is the assert statement?") == ["the", "assert", "statement"]
    assert query_terms("请解释一下绿茶是什么意思？") == ["绿茶"]
    assert query_terms("What is it about?") == ["it"]
    assert query_terms("How?") == ["how"]  # else nothing would be left
    assert query_terms("?!") == []


def test_bm25_scores_are_those_of_its_formula():
    """idf × tf / (tf + k1 (1 − b + b · length / mean length)), idf = ln(1 + (N − n + ½) / (n + ½)): Lucene's
    variant in Kamphuis et al. 2020, "Which BM25 do you mean?". Terms of the texts and questions by hand."""
    documents = [["tea", "tea", "cup"], ["tea"], ["cup", "of", "milk", "milk", "and", "tea"], ["water"]]
    passages = [Passage(" ".join(words), str(n)) for n, words in enumerate(documents)]
    mean = sum(map(len, documents)) / len(documents)

    def score(word, words):
        having = sum(word in other for other in documents)
        idf = math.log(1 + (len(documents) - having + 0.5) / (having + 0.5))
        tf = words.count(word)
        return idf * tf / (tf + 1.5 * (1 - 0.75 + 0.75 * len(words) / mean))

    for question in (["tea"], ["milk", "tea"], ["cup", "cup", "water"], ["juice"]):
        expected = {str(n): sum(score(word, words) for word in question) for n, words in enumerate(documents)}
        (hits,) = BM25(passages).search([" ".join(question)], 9)
        scores = {hit.passage.source: hit.score for hit in hits}
        assert scores == pytest.approx({n: value for n, value in expected.items() if value > 0}, rel=1e-5)
        assert [hit.score for hit in hits] == sorted(scores.values(), reverse=True)


def test_both_languages_are_found_also_by_one_character():
    retriever = BM25(PASSAGES)
    assert found(retriever, "Where does coffee come from?", 1) == [3]
    assert found(retriever, "绿茶产自哪里？", 1) == [4]
    assert found(retriever, "茶") == [4]
    assert found(retriever, "啡") == [5]


def test_a_passage_that_shares_no_word_is_no_hit():
    retriever = BM25(PASSAGES)
    assert found(retriever, "Ethiopia") == [3]
    assert found(retriever, "zebra") == found(retriever, "") == found(retriever, "?") == []
    assert found(retriever, "tea", 0) == []


def test_equal_passages_come_in_the_order_of_the_documents():
    same = [Passage("tea", str(n)) for n in range(40)]
    (hits,) = BM25(same).search(["tea"], 7)
    assert [hit.passage.source for hit in hits] == [str(n) for n in range(7)]
    scores = np.random.default_rng(0).integers(0, 3, 5000).astype(np.float32)
    in_order = sorted(range(5000), key=lambda place: (-scores[place], place))
    assert [best_places(scores, count) for count in (1, 30, 4000)] == [in_order[:n] for n in (1, 30, 4000)]


def test_an_index_without_words_is_refused():
    for passages in ([], [Passage("?!", "a:1")]):
        with pytest.raises(UserError, match="an empty index"):
            BM25(passages)


def test_a_missing_library_is_named_with_its_extra(monkeypatch):
    def missing(name):
        raise ModuleNotFoundError(f"No module named '{name}'", name=name)

    monkeypatch.setattr(index, "import_module", missing)
    with pytest.raises(UserError, match=r"retrieval needs bm25s: pip install 'trivium\[retrieval\]'"):
        BM25(PASSAGES)


@pytest.fixture(scope="module")
def encoder(tmp_path_factory):
    """The directory of a small random BERT, as `AutoModel` saves one."""
    import torch
    from transformers import BertConfig, BertModel, BertTokenizer

    folder = tmp_path_factory.mktemp("bert")
    words = sorted({word for text in TEXTS[:3] for word in terms(text)})
    vocabulary = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", *words]
    (folder / "vocab.txt").write_text("\n".join(vocabulary))
    BertTokenizer(str(folder / "vocab.txt")).save_pretrained(folder)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 64}
    BertModel(BertConfig(vocab_size=len(vocabulary), max_position_embeddings=64, **sizes)).save_pretrained(
        folder
    )
    return str(folder)


def test_embeddings_rank_by_the_cosine_of_mean_hidden_states(encoder):
    """Each text alone through plain transformers; its tokens' hidden states averaged."""
    import torch
    from transformers import AutoModel, AutoTokenizer

    tokenizer, model = AutoTokenizer.from_pretrained(encoder), AutoModel.from_pretrained(encoder).eval()

    def vector(text):
        with torch.no_grad():
            hidden = model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0].mean(0)
        return hidden / hidden.norm()

    question = "tea from China"
    cosines = {p.source: float(vector(p.text) @ vector(question)) for p in PASSAGES[:3]}
    (hits,) = Embeddings(PASSAGES[:3], encoder).search([question], 3)
    # fp32 in batches of other lengths
    assert {hit.passage.source: hit.score for hit in hits} == pytest.approx(cosines, abs=1e-5)
    assert [hit.passage.source for hit in hits] == sorted(cosines, key=lambda n: -cosines[n])


def test_a_directory_without_a_model_is_refused(tmp_path):
    with pytest.raises(UserError, match="has no config.json"):
        Embeddings(PASSAGES, str(tmp_path))
    (tmp_path / "config.json").write_text("{}")
    with pytest.raises(UserError, match="cannot be loaded"):
        Embeddings(PASSAGES, str(tmp_path))


@pytest.fixture
def notes(tmp_path, monkeypatch):
    """A file of passages, with a cache folder of its own."""
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "cache"))
    file = tmp_path / "notes.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in TEXTS))
    return file


def test_an_index_is_made_once_and_finds_the_same(notes, monkeypatch):
    first = open_library([str(notes)])
    monkeypatch.setattr(library, "read_documents", None)
    monkeypatch.setattr(BM25, "__init__", None)
    again = open_library([str(notes)])
    assert again.documents == first.documents
    assert again.summary() == "5 passages from 1 file"
    for query in ("Where does tea come from?", "茶", "zebra"):
        assert again.retriever.search([query], 5) == first.retriever.search([query], 5)


def test_another_byte_or_another_length_is_another_index(notes):
    first = open_library([str(notes)])
    notes.write_text(notes.read_text().replace("Ethiopia", "Eritrea!"))
    assert "Eritrea" in open_library([str(notes)]).documents.passages[2].text
    assert len(open_library([str(notes)], length=40).documents.passages) > len(first.documents.passages)


def test_an_index_that_cannot_be_kept_is_told_and_serves(notes, capsys):
    (notes.parent / "cache").mkdir(exist_ok=True)
    (notes.parent / "cache" / "retrieval").write_text("a file where the folder should be")
    library = open_library([str(notes)])
    assert library.retriever.search(["Where does tea come from?"], 1)[0]
    told = capsys.readouterr().err
    assert told.startswith(f"trivium: {notes.parent / 'cache' / 'retrieval'}")
    assert "cannot be written" in told
    assert len(told.splitlines()) == 1


def test_a_damaged_index_is_made_anew_and_told(notes, capsys):
    first = open_library([str(notes)])
    (file,) = (notes.parent / "cache" / "retrieval").iterdir()
    whole = file.read_bytes()
    for damaged in (whole[:-7], b"", whole[:100] + b"\xff" + whole[101:]):
        file.write_bytes(damaged)
        capsys.readouterr()
        assert open_library([str(notes)]).documents == first.documents
        assert capsys.readouterr().err == f"trivium: {file} is damaged: the index is made anew\n"
        assert file.read_bytes() == whole


def test_vectors_are_kept_too(notes, encoder, monkeypatch):
    first = open_library([str(notes)], embeddings=encoder)
    monkeypatch.setattr(library, "read_documents", None)
    again = open_library([str(notes)], embeddings=encoder)
    assert np.array_equal(again.retriever.vectors, first.retriever.vectors)
    query = ["tea from China"]
    assert again.retriever.search(query, 2) == first.retriever.search(query, 2)


def test_a_folder_that_cannot_be_written_is_no_error(notes, tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("TRIVIUM_CACHE", str(tmp_path / "file"))
    assert len(open_library([str(notes)]).documents.passages) == 5


def test_the_benchmark_counts_questions_whose_text_is_found(tmp_path, rows, capsys):
    """Three of four are found first, two of them since their texts are the same; one shares no word."""
    from experiments.benchmarks.retrieval import measure

    texts = ["Tea is green.", "Tea is green.", "Milk is white.", "Salt is dry."]
    questions = ["green tea", "tea", "milk", "zebra"]
    asked = [{"question": q, "text": t} for q, t in zip(questions, texts, strict=True)]
    measure(rows(tmp_path / "asked.jsonl", asked), 600, None)
    out = capsys.readouterr().out
    assert out.startswith("asked.jsonl, BM25: 4 passages, 4 questions\n")
    assert [line.split()[1] for line in out.splitlines()[1:4]] == ["0.750"] * 3
