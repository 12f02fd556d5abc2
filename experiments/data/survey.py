"""What can be said of a file after reading it once (its most repeated rows are read again): a `Survey`."""

import json
import random
from array import array
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

from experiments.data.duplicates import Duplicates
from experiments.data.languages import Languages
from experiments.data.shingles import digest, plain
from experiments.data.texts import Text, read_texts, text_of

LISTED = 20  # bad rows
REPEATED = 5  # most repeated rows
RANDOM = 5  # sample rows besides the first, the longest and the shortest
SHOWN, ONE_LINE = 1500, 80  # characters of a value; of one that is no text and need not be broken into lines
KINDS = {
    bool: "true or false", int: "whole number", float: "number", str: "text", list: "list", dict: "object",
}  # fmt: skip


@dataclass
class Column:
    """A column: how many rows have which type in it, null, or nothing (an empty text, list or object)."""

    kinds: Counter[str] = field(default_factory=Counter)
    present: int = 0
    null: int = 0
    empty: int = 0


@dataclass
class Sample:
    """A row to look at: why it was chosen, where it is, and its columns as texts."""

    why: str
    where: str
    values: dict[str, str]


@dataclass
class Survey:
    """What is in a file."""

    file: str
    rows: int = 0  # all of them, also those that cannot be read
    bad: int = 0  # that cannot be read
    texts: int = 0  # rows that hold text, an empty one included
    blank: int = 0
    textless: str = ""  # the first readable row without text and why, as `FILE:LINE reason`
    guessed: int = 0  # rows of an unknown kind, of which every text was taken
    columns: dict[str, Column] = field(default_factory=dict)
    listed: list[tuple[str, str]] = field(default_factory=list)  # where and why, of the first bad rows
    characters: array = field(default_factory=lambda: array("Q"))  # lengths of the texts
    tokens: array = field(default_factory=lambda: array("Q"))  # the same; none without a tokenizer
    languages: Counter[str] = field(default_factory=Counter)
    exact: int = 0  # texts that equal an earlier one but for case and white space
    near: int = 0  # other texts that are nearly like an earlier one
    repeated: list[tuple[int, Sample]] = field(default_factory=list)  # how often, and one such row
    samples: list[Sample] = field(default_factory=list)

    @property
    def readable(self) -> int:
        """Rows that could be read."""
        return self.rows - self.bad


def share(part: int, whole: int) -> str:
    """Per cent with a decimal, its space unbroken; what is not nothing is never shown as nothing."""
    if not part:
        return "0\u00a0%" if whole else "–"
    return "<\u00a00.1\u00a0%" if 1000 * part < whole else f"{100 * part / whole:.1f}\u00a0%"


def survey(
    file: str,
    field: str | None = None,
    tokenizer: str | None = None,
    seed: int = 0,
    columns: Mapping[str, str] | None = None,
    encoding: str | None = None,
) -> Survey:
    """Reads a file and says what is in it.

    Args:
        file: what `datamodules.reading.sources.read_rows` reads, on the disk.
        field: the column that holds the text; by default what `texts.text_of` finds, or every text of a row
            in which that finds nothing.
        tokenizer: a folder of `transformers`, to count tokens with.
        seed: of the random samples.
        columns, encoding: as of `read_texts`.

    Raises:
        UserError: no such file, nothing in it, no such tokenizer, or a library is missing.
    """
    result, seen, languages = Survey(file), Duplicates(), Languages()
    count_tokens = _token_counter(tokenizer) if tokenizer else None
    digests: Counter[bytes] = Counter()
    samples = _Samples(seed)
    how: dict[str, Any] = {"any_text": not field, "columns": columns, "encoding": encoding}
    for item in read_texts(file, field, **how):
        result.rows += 1
        if item.row is None:
            result.bad += 1
            if len(result.listed) < LISTED:
                result.listed.append((item.where, item.problem or ""))
            continue
        _describe(item.row, result.columns)
        if item.text is None:
            result.textless = result.textless or f"{item.where} {item.problem}"
        else:
            result.texts += 1
            result.guessed += not (field or columns) and text_of(item.row) is None
            result.blank += not item.text.strip()
            result.characters.append(len(item.text))
            if count_tokens:
                result.tokens.append(count_tokens(item.text))
            result.languages[languages.of(item.text)] += 1
            key = digest(plain(item.text))
            digests[key] += 1
            if digests[key] > 1:
                result.exact += 1
            elif seen.add(item.text):
                result.near += 1
        samples.offer(item)
    result.samples = samples.chosen()
    _repeated(result, digests, field, how)
    return result


def _token_counter(tokenizer: str) -> Callable[[str], int]:
    from datamodules.rendering.tokenizer import load_tokenizer, tokenize  # takes seconds to import

    loaded = load_tokenizer(tokenizer)
    return lambda text: len(tokenize(loaded, text))


def _describe(row: Mapping[str, Any], columns: dict[str, Column]) -> None:
    for name, value in row.items():
        column = columns.setdefault(name, Column())
        column.present += 1
        if value is None:
            column.null += 1
            continue
        column.kinds[KINDS.get(type(value), type(value).__name__)] += 1
        content = value.strip() if isinstance(value, str) else value
        column.empty += isinstance(value, str | list | dict) and not content


def _repeated(result: Survey, digests: Counter[bytes], field: str | None, how: Mapping[str, Any]) -> None:
    """Reads the file again as far as the rows that occur most often first occur."""
    wanted = {key: count for key, count in digests.most_common(REPEATED) if count > 1}
    first: dict[bytes, Sample] = {}
    if wanted:
        for item in read_texts(result.file, field, show="looking again at", **how):
            if item.text is None:
                continue
            key = digest(plain(item.text))
            if key in wanted and key not in first:
                first[key] = _sample("", item)
                if len(first) == len(wanted):
                    break
    result.repeated = [(count, first[key]) for key, count in wanted.items() if key in first]


class _Samples:
    """The first row, the longest, the shortest and some at random (Vitter 1985, algorithm R)."""

    def __init__(self, seed: int):
        self.random, self.count = random.Random(seed), 0
        self.named: dict[str, Text] = {}
        self.at_random: list[Text] = []

    def offer(self, item: Text) -> None:
        named = self.named = self.named or dict.fromkeys(("first", "longest", "shortest"), item)
        length = len(item.text or "")
        if length > len(named["longest"].text or ""):
            named["longest"] = item
        if length < len(named["shortest"].text or ""):
            named["shortest"] = item
        self.count += 1
        if len(self.at_random) < RANDOM:
            self.at_random.append(item)
        elif (place := self.random.randrange(self.count)) < RANDOM:
            self.at_random[place] = item

    def chosen(self) -> list[Sample]:
        """Each row once, under the first of its reasons."""
        reasons: dict[str, list[str]] = {}
        items: dict[str, Text] = {}
        for why, item in [*self.named.items(), *(("random", item) for item in self.at_random)]:
            items[item.where] = item
            reasons.setdefault(item.where, []).append(why)
        return [_sample(", ".join(dict.fromkeys(why)), items[where]) for where, why in reasons.items()]


def _sample(why: str, item: Text) -> Sample:
    return Sample(why, item.where, {name: _shown(value) for name, value in (item.row or {}).items()})


def _shown(value: Any) -> str:
    """A value as text, cut where it is long."""
    if isinstance(value, str):
        text = value
    elif isinstance(value, list) and value and all(isinstance(part, str) for part in value):
        text = "\n\n".join(f"{number}. {part}" for number, part in enumerate(value, 1))
    else:
        text = json.dumps(value, ensure_ascii=False, default=str)
        if len(text) > ONE_LINE:
            text = json.dumps(value, ensure_ascii=False, indent=1, default=str)
    return text if len(text) <= SHOWN else f"{text[:SHOWN]}… ({len(text) - SHOWN:,} characters more)"
