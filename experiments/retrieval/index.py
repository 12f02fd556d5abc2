"""Passages that a question finds: by its words (BM25), or by the direction of its embedding."""

import logging
from collections.abc import Sequence
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Protocol

import numpy as np

from experiments.cli.user_errors import UserError
from experiments.retrieval.bars import tracked
from experiments.retrieval.passages import Passage
from experiments.retrieval.terms import query_terms, terms

K1, B = 1.5, 0.75  # of BM25: how soon a term repeated counts no more; how much a long passage is held back
CHUNK = 256  # passages embedded between two steps of the progress bar
ENCODING: dict[str, Any] = {
    "normalize_embeddings": True,
    "show_progress_bar": False,
    "convert_to_numpy": True,
}
EXTRA = "pip install 'trivium[retrieval]'"


class Hit(NamedTuple):
    """A passage that was found, and how well it fits: BM25's score, or a cosine."""

    passage: Passage
    score: float


class Retriever(Protocol):
    """What finds passages."""

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        """For each query at most `count` hits, the best first; of equal ones the first in the documents."""
        ...


class BM25:
    """Ranks passages by the terms that they share with a question (Robertson's BM25 with Lucene's idf, which
    is never negative; through the library bm25s). A passage that shares none is no hit.

    Args:
        passages: at least one.

    Raises:
        UserError: there is no passage, or no word in any of them; bm25s is not installed.
    """

    def __init__(self, passages: Sequence[Passage]):
        documents = [terms(passage.text) for passage in tracked(passages, "indexing passages")]
        vocabulary: dict[str, int] = {}  # numbered as they first occur: bm25s would number them at random
        ids = [[vocabulary.setdefault(term, len(vocabulary)) for term in document] for document in documents]
        if not vocabulary:
            raise UserError("an empty index: the documents have no word to search for")
        self.passages, self.vocabulary = list(passages), vocabulary
        self.scorer = _scorer()
        self.scorer.index((ids, vocabulary), create_empty_token=False, show_progress=False)

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        found = []
        for query in queries:
            known = [self.vocabulary[t] for t in query_terms(query) if t in self.vocabulary]
            scores = self.scorer.get_scores_from_ids(known)
            best = [place for place in best_places(scores, count) if scores[place] > 0]
            found.append([Hit(self.passages[place], float(scores[place])) for place in best])
        return found

    def arrays(self) -> dict[str, np.ndarray]:
        """What `from_arrays` makes the same index of, without the passages."""
        scores = self.scorer.scores
        words = np.frombuffer("\n".join(self.vocabulary).encode(), dtype=np.uint8)
        return {"words": words, **{name: scores[name] for name in ("data", "indices", "indptr")}}

    @classmethod
    def from_arrays(cls, passages: Sequence[Passage], arrays: dict[str, np.ndarray]) -> "BM25":
        """The index that `arrays` came from."""
        index = cls.__new__(cls)
        words = arrays["words"].tobytes().decode().split("\n")
        index.passages, index.vocabulary = list(passages), {word: n for n, word in enumerate(words)}
        index.scorer = _scorer()
        kept = {name: arrays[name] for name in ("data", "indices", "indptr")}
        index.scorer.scores = {**kept, "num_docs": len(index.passages)}
        index.scorer.nonoccurrence_array = None  # of variants that score a term's absence
        return index


class Embeddings:
    """Ranks passages by the cosine between their embedding and the question's; every passage is a hit.

    Args:
        passages: at least one.
        directory: what sentence-transformers loads: its own format, or a plain `AutoModel` (then the mean
            over tokens). Never from the hub.
        vectors: embeddings (passages, D) of an earlier run, in place of computing them.

    Raises:
        UserError: no such directory, no model in it, or sentence-transformers is not installed.
    """

    def __init__(self, passages: Sequence[Passage], directory: str, vectors: np.ndarray | None = None):
        if not passages:
            raise UserError("an empty index: there is no passage to embed")
        self.passages = list(passages)
        self.encoder = _encoder(directory)
        if vectors is None:
            texts = [passage.text for passage in self.passages]
            chunks = [texts[start : start + CHUNK] for start in range(0, len(texts), CHUNK)]
            encode = self.encoder.encode_document
            vectors = np.concatenate([encode(chunk, **ENCODING) for chunk in tracked(chunks, "embedding")])
        self.vectors: np.ndarray = vectors

    def search(self, queries: Sequence[str], count: int) -> list[list[Hit]]:
        found = []
        for question in self.encoder.encode_query(list(queries), **ENCODING):
            scores = self.vectors @ question
            best = best_places(scores, count)
            found.append([Hit(self.passages[place], float(scores[place])) for place in best])
        return found


def best_places(scores: np.ndarray, count: int) -> list[int]:
    """Where the `count` highest scores (N,) are, highest first; of equal ones the first places."""
    count = min(count, len(scores))
    if count <= 0:
        return []
    least = np.partition(scores, -count)[-count]
    best = np.flatnonzero(scores >= least)
    return best[np.argsort(-scores[best], kind="stable")][:count].tolist()


def _scorer() -> Any:
    library = _needed("bm25s")
    logging.getLogger("bm25s").setLevel(logging.WARNING)  # it sets itself to DEBUG, for every root handler
    return library.BM25(k1=K1, b=B, method="lucene", backend="numpy")


def _encoder(directory: str) -> Any:
    if not Path(directory, "config.json").is_file() and not Path(directory, "modules.json").is_file():
        raise UserError(f"--embeddings: {directory} is no directory of a model: it has no config.json")
    library = _needed("sentence_transformers")
    try:
        return library.SentenceTransformer(directory, device="cpu", local_files_only=True)
    except (OSError, ValueError, KeyError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UserError(f"--embeddings: {directory} cannot be loaded: {reason}") from error


def _needed(library: str) -> ModuleType:
    try:
        return import_module(library)
    except ModuleNotFoundError as error:
        if error.name != library:
            raise
        raise UserError(f"retrieval needs {library.replace('_', '-')}: {EXTRA}") from error
