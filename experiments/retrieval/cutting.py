"""A text → pieces of bounded length that end where a paragraph or a sentence does, each under its heading."""

import re
from collections.abc import Iterator
from typing import NamedTuple

FENCE = re.compile(r"^ {0,3}(```|~~~)")
HASH_HEADING = re.compile(r"^ {0,3}#{1,6}\s+\S")
UNDERLINE = re.compile(r"^ {0,3}(=+|-{2,})\s*$")
# Where a text may be cut, the best places first. Closing quotes and the space behind belong to a sentence.
CUTS = (
    re.compile(r"\n[ \t]*\n\s*"),
    re.compile(r"[.!?]+[\"')\]”’]*\s+|[。！？…]+[”’」』）]*\s*"),
    re.compile(r"\n\s*|[,;:]\s+|[，；：、]\s*"),
    re.compile(r"\s+"),
)


class Piece(NamedTuple):
    """A piece of a text under its heading, and the line, from 1, where it begins."""

    text: str
    line: int


class Section(NamedTuple):
    """A heading, the line where it stands, and what follows it up to the next, with that text's own line."""

    heading: str
    line: int
    body: str
    body_line: int


def pieces(section: Section, length: int) -> Iterator[Piece]:
    """The text of a section in pieces of at most `length` bytes of UTF-8, the heading at the top of each.

    Neighbouring paragraphs share a piece where they fit; a paragraph is cut between its sentences only where
    it is too long, a sentence between clauses or words only where it is too long, and so on. A heading takes
    no more than half of a piece.
    """
    heading, body = _first(section.heading.strip(), length // 2), section.body
    room = length - (len(heading.encode()) + 1 if heading else 0)
    if heading and not body.strip():
        yield Piece(heading, section.line)
    start, line, is_first = 0, section.body_line, True
    for stop in _joined(body, room):
        text = body[start:stop].strip()
        if text:
            space = len(body[start:stop]) - len(body[start:stop].lstrip())
            own = line + body.count("\n", start, start + space)
            yield Piece(
                f"{heading}\n{text}" if heading else text, section.line if heading and is_first else own
            )
            is_first = False
        line += body.count("\n", start, stop)
        start = stop


def sections(markdown: str) -> Iterator[Section]:
    """The sections of a Markdown text in its order. Headings with nothing between them are one; what stands
    before the first has none."""
    lines = markdown.split("\n")
    heads = _headings(lines)
    heading: list[str] = []
    heading_from = body_from = 0
    for number in [*sorted(heads), len(lines)]:
        body = "\n".join(lines[body_from:number])
        if body.strip() or (number == len(lines) and heading):
            yield Section("\n".join(heading), heading_from + 1, body, body_from + 1)
            heading = []
        if number < len(lines):
            heading_from = heading_from if heading else number
            heading += [line.strip() for line in lines[number : heads[number]]]
            body_from = heads[number]


def _headings(lines: list[str]) -> dict[int, int]:
    """The first line of each heading → the line after it, from 0; in a fenced block there is none."""
    heads, fence = {}, ""
    for number, line in enumerate(lines):
        if mark := FENCE.match(line):
            fence = "" if fence == mark[1] else fence or mark[1]
        elif fence:
            continue
        elif HASH_HEADING.match(line):
            heads[number] = number + 1
        elif number and UNDERLINE.match(line) and number - 1 not in heads:
            is_alone = number < 2 or not lines[number - 2].strip()  # else a paragraph ends with it
            if lines[number - 1].strip() and is_alone:
                heads[number - 1] = number + 1
    return heads


def _joined(text: str, room: int) -> Iterator[int]:
    """Where the pieces of a text end, neighbours joined as long as they fit into `room` bytes."""
    start = stop = 0
    for end in _ends(text, 0, len(text), room, 0):
        if len(text[start:end].strip().encode()) > room:
            yield stop
            start = stop
        stop = end
    yield stop


def _ends(text: str, start: int, stop: int, room: int, level: int) -> Iterator[int]:
    """Where pieces of at most `room` bytes end that lie end to end in `text[start:stop]`."""
    if len(text[start:stop].strip().encode()) <= room:
        yield stop
    elif level == len(CUTS):  # one endless word
        while start < stop:
            start += len(_first(text[start : min(stop, start + room)], room))
            yield start
    else:
        for match in CUTS[level].finditer(text, start, stop):
            yield from _ends(text, start, match.end(), room, level + 1)
            start = match.end()
        if start < stop:
            yield from _ends(text, start, stop, room, level + 1)


def _first(text: str, size: int) -> str:
    """As many characters as `size` bytes hold."""
    return text.encode()[:size].decode(errors="ignore")
