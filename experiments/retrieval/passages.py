"""Files and folders → passages: what a question is answered from."""

import glob
import os
from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

from datamodules.errors import UserError as UnreadableFile
from experiments.cli.user_errors import UserError
from experiments.retrieval.bars import tracked
from experiments.retrieval.cutting import Section, pieces, sections

LENGTH = 600  # bytes of UTF-8: about 100 English words or 200 Chinese characters, 130 to 200 tokens
SHORTEST = 40


class Passage(NamedTuple):
    """A piece of a document.

    Fields:
        text: verbatim, after the heading or title that it stands under.
        source: `FILE:LINE` where it begins; `FILE, row N` in a JSON array.
    """

    text: str
    source: str


class Documents(NamedTuple):
    """What `read_documents` has read.

    Fields:
        passages: in the order of the files, at least one.
        files: how many files they come from.
        left_out: of each other file that lies in a folder, its path and why.
    """

    passages: list[Passage]
    files: int
    left_out: list[str]


def read_passages(paths: Sequence[str], length: int = LENGTH, name: str = "--documents") -> list[Passage]:
    """The passages of `read_documents` alone; arguments and errors as there."""
    return read_documents(paths, length, name).passages


def read_documents(paths: Sequence[str], length: int = LENGTH, name: str = "--documents") -> Documents:
    """Cuts documents into passages.

    Args:
        paths: files, folders (all in them, hidden files apart) and globs. A file is text, Markdown, or JSON
            with rows `text` or `title` and `text`; each may end in `.gz`.
        length: bytes of UTF-8 in a passage, at most.
        name: the option that gave the paths, for messages.

    Raises:
        UserError: nothing there, or no text in it. A file that was named and is no text, is broken or has
            a row without `text` is refused too; one that only lies in a folder is left out.
    """
    if length < SHORTEST:
        raise UserError(f"{name}: passages of {length} bytes hold no sentence: give {SHORTEST} or more")
    passages: list[Passage] = []
    files, left_out = 0, []
    for file, is_named in tracked(document_files(paths, name), "reading documents"):
        try:
            passages += list(_passages_of(file, length, name))
            files += 1
        except (UnreadableFile, UserError, OSError) as error:
            problem = str(error).removeprefix(f"{name}: ")
            if is_named:
                raise UserError(f"{name}: {problem}") from error
            left_out.append(problem)
    if not files:
        others = f": {len(left_out)} files are left out, the first: {left_out[0]}" if left_out else ""
        raise UserError(f"{name}: no documents found in {' '.join(paths)}{others}")
    if not passages:
        raise UserError(f"{name}: an empty index: {' '.join(paths)} holds no text")
    return Documents(passages, files, left_out)


def document_files(paths: Sequence[str], name: str = "--documents") -> list[tuple[str, bool]]:
    """The files of paths, each once, and whether it was named itself (else a folder or a glob led to it).

    Raises:
        UserError: a path leads nowhere.
    """
    files: dict[str, tuple[str, bool]] = {}  # by real path: a link is no second document
    for path in paths:
        if os.path.isfile(path):
            files.setdefault(os.path.realpath(path), (path, True))
            continue
        matches = [path] if os.path.isdir(path) else sorted(glob.glob(path, recursive=True))
        if not matches:
            raise UserError(f"{name}: no documents found: {path} does not exist")
        for match in matches:
            for file in _inside(match) if os.path.isdir(match) else [match]:
                files.setdefault(os.path.realpath(file), (file, False))
    return list(files.values())


def _inside(folder: str) -> list[str]:
    found = []
    for place, folders, files in os.walk(folder):
        folders[:] = sorted(inner for inner in folders if not inner.startswith("."))
        found += [
            os.path.normpath(os.path.join(place, file)) for file in sorted(files) if not file.startswith(".")
        ]
    return found


def _passages_of(file: str, length: int, name: str) -> Iterator[Passage]:
    """The passages of a file, row by row.

    Raises:
        UserError: it is no text, or a row cannot be read or has no `text`.
        OSError: it cannot be read.
    """
    from datamodules.reading.files import TEXT_ENDINGS, check_file, ending, read_file

    kind = ending(file)
    if kind not in TEXT_ENDINGS:
        raise UserError(f"{file} is no document: give {', '.join(TEXT_ENDINGS)} (also with .gz)")
    check_file(file, name)
    for record in read_file(file):
        if record.row is None:
            raise UserError(f"{record.where} {record.problem}")
        text = _column(record.row, "text", record.where)
        if kind in (".txt", ".md"):
            for section in sections(text) if kind == ".md" else [Section("", 1, text, 1)]:
                yield from (Passage(piece.text, f"{file}:{piece.line}") for piece in pieces(section, length))
        else:
            title = _column(record.row, "title", record.where) if record.row.get("title") else ""
            yield from (Passage(p.text, record.where) for p in pieces(Section(title, 1, text, 1), length))


def _column(row: dict[str, Any], column: str, where: str) -> str:
    """A text of a row.

    Raises:
        UserError: it has none of that name.
    """
    value = row.get(column)
    if isinstance(value, str):
        return value
    have = ", ".join(f"`{key}`" for key in row) or "none"
    raise UserError(
        f"{where} has no text in `{column}`"
        if column in row
        else f"{where} has no column `{column}` (it has {have})"
    )
