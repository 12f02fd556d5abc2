"""Documents and the index that finds them, made once for their content and kept in the cache folder."""

import hashlib
import json
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import NamedTuple

import numpy as np

from experiments.atomic import whole
from experiments.cli.user_errors import UserError, tell
from experiments.retrieval.index import BM25, Embeddings, Retriever
from experiments.retrieval.passages import LENGTH, Documents, Passage, document_files, read_documents

VERSION = 1  # of cutting, terms and file: another one is another cache
DIGEST = 16  # bytes in front of a cache file: of all that follows


class Library(NamedTuple):
    """Documents with their index.

    Fields:
        documents: as read, or from the cache.
        retriever: finds their passages.
    """

    documents: Documents
    retriever: Retriever

    def summary(self) -> str:
        """How much was read, and what was left out, in a line."""
        passages, files, left_out = self.documents
        counts = f"{len(passages):,} passages from {_files(files)}"
        return f"{counts}; {_files(len(left_out))} left out: {left_out[0]}" if left_out else counts


def _files(count: int) -> str:
    return f"{count:,} file{'' if count == 1 else 's'}"


def open_library(
    paths: Sequence[str], length: int = LENGTH, embeddings: str | None = None, name: str = "--documents"
) -> Library:
    """Reads documents and indexes them, or takes both from the cache if not a byte has changed.

    Args:
        paths, length, name: as for `read_documents`.
        embeddings: a directory, as for `Embeddings`; without one the index is `BM25`.

    Raises:
        UserError: as `read_documents`, `BM25` and `Embeddings` do.
    """
    file = cache_file(paths, length, embeddings, name)
    if kept := _load(file):
        documents, arrays = kept
        if embeddings is None:
            return Library(documents, BM25.from_arrays(documents.passages, arrays))
        return Library(documents, Embeddings(documents.passages, embeddings, arrays["vectors"]))
    documents = read_documents(paths, length, name)
    if embeddings is None:
        words = BM25(documents.passages)
        _save(file, documents, words.arrays())
        return Library(documents, words)
    meanings = Embeddings(documents.passages, embeddings)
    _save(file, documents, {"vectors": meanings.vectors})
    return Library(documents, meanings)


def cache_file(paths: Sequence[str], length: int, embeddings: str | None, name: str) -> Path:
    """Where an index is kept: its name is a digest of the files' paths and bytes, the length of passages, the
    embedding model's bytes, and the versions of what computes it.

    Raises:
        UserError: a path leads nowhere, or a file cannot be read.
    """
    from datamodules.reading.files import TEXT_ENDINGS, ending
    from datamodules.reading.fingerprint import cache_folder, fingerprint

    files = [file for file, _ in document_files(paths, name)]
    library, model = "bm25s", ""
    if embeddings is not None:
        library = "sentence-transformers"
        weights = sorted(str(path) for path in Path(embeddings).rglob("*") if path.is_file())
        if not weights:
            raise UserError(f"--embeddings: {embeddings} is no directory of a model")
        model = fingerprint(weights, "--embeddings")
    texts = [file for file in files if ending(file) in TEXT_ENDINGS]  # what else lies there is only named
    content = fingerprint(texts, name) if texts else ""
    key = json.dumps([VERSION, library, _version(library), files, content, length, model])
    digest = hashlib.blake2b(key.encode("utf-8", "backslashreplace"), digest_size=12).hexdigest()
    return cache_folder().parent / "retrieval" / f"{digest}.index"


def _version(library: str) -> str:
    try:
        return version(library)
    except PackageNotFoundError:
        return ""  # what needs it will say so


def _save(file: Path, documents: Documents, arrays: dict[str, np.ndarray]) -> None:
    """Writes a cache file; where that cannot be, it is told, and the index is made anew every time."""
    from safetensors.numpy import save

    text = json.dumps(documents).encode()  # a NamedTuple is a list in JSON
    tensors = {name: np.ascontiguousarray(array) for name, array in arrays.items()}
    content = save({**tensors, "documents": np.frombuffer(text, dtype=np.uint8)})
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with whole(file) as part:
            part.write_bytes(_digest(content) + content)
    except OSError as error:
        tell(f"{file} cannot be written ({error.strerror}): the index is made anew every time")


def _load(file: Path) -> tuple[Documents, dict[str, np.ndarray]] | None:
    """What `_save` wrote; None where there is nothing, or it is damaged, which is told."""
    from safetensors.numpy import load

    try:
        data = file.read_bytes()
    except OSError:
        return None
    content = data[DIGEST:]
    if _digest(content) != data[:DIGEST]:
        tell(f"{file} is damaged: the index is made anew")
        return None
    arrays = load(content)
    passages, files, left_out = json.loads(arrays.pop("documents").tobytes())
    return Documents([Passage(*passage) for passage in passages], files, left_out), arrays


def _digest(content: bytes) -> bytes:
    return hashlib.blake2b(content, digest_size=DIGEST).digest()
