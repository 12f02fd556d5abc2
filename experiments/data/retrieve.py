"""`trivium data retrieve ROWS --documents PATH… --output FILE`: rows that teach to answer from passages.

A question is put beside the passage that holds its answer (its gold passage) and others that resemble it,
in random order. A share of the rows is under a restriction to the passages; of these a share has no gold
passage, and is answered with what the restriction names for that, as `unknown`. The rows have `instruction`
and `output`, as `datamodules.InstructionData` reads them, and `kind` and `language` for its `group_by`.
"""

import argparse
import json
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from random import Random
from typing import Any, NamedTuple

from rich.console import Console

from experiments.atomic import write_text
from experiments.cli.arguments import ArgumentParser
from experiments.cli.reading_options import add_reading_options, columns_of
from experiments.cli.user_errors import UserError, tell
from experiments.data.output import add_counts, check_output, counts_table
from experiments.retrieval.bars import tracked
from experiments.retrieval.gold import Gold
from experiments.retrieval.library import open_library
from experiments.retrieval.passages import LENGTH
from experiments.retrieval.prompts import RESTRICTIONS, TRAINED, language_of, with_passages

KINDS = {
    "free": "asked freely, with the gold passage",
    "restricted": "under a restriction, with the gold passage",
    "unknown": "under a restriction, without it",
    "dropped": "dropped: no passage that holds the answer is found",
}


class Question(NamedTuple):
    """A question and its answer."""

    question: str
    answer: str


def main(argv: list[str]) -> int:
    """Runs `trivium data retrieve …`."""
    parser = ArgumentParser(
        prog="trivium data retrieve",
        description=(__doc__ or "").partition("\n\n")[2],
        epilog="For example: trivium data retrieve questions.jsonl --documents notes --output reading.jsonl",
    )
    option = parser.add_argument
    option("rows", metavar="ROWS", help="rows with `question` and `answer`, or `instruction` and `output`")
    option("--documents", nargs="+", required=True, metavar="PATH", help="folders, globs or files to read")
    option("--output", required=True, metavar="FILE", help="JSON lines to write")
    option("--restrict-share", type=float, default=0.5, metavar="S", help="of all rows (default 0.5)")
    option("--unanswerable-share", type=float, default=0.3, metavar="S", help="of those restricted (0.3)")
    option("--distractors", type=int, default=2, metavar="K", help="passages beside the gold one (2)")
    option("--passage-length", type=int, default=LENGTH, metavar="BYTES", help=f"of a passage ({LENGTH})")
    option("--seed", type=int, default=0, help="of what is drawn: kinds, wordings, places (0)")
    option("--json", action="store_true", help="print the counts as one JSON line")
    add_reading_options(parser)
    options = parser.parse_args(argv)
    for name in ("restrict_share", "unanswerable_share"):
        if not 0 <= getattr(options, name) <= 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}: give a share, 0 to 1")
    if options.distractors < 0:
        raise UserError(f"--distractors is {options.distractors}: give 0 or more")
    check_output(Path(options.output), [options.rows])
    questions = read_questions(options.rows, columns_of(options.columns), options.encoding)
    library = open_library(options.documents, options.passage_length)
    tell(library.summary())
    gold = Gold(library.documents.passages, library.retriever)
    rows = reading_rows(
        questions, gold, options.restrict_share, options.unanswerable_share, options.distractors, options.seed
    )
    if not rows:
        raise UserError(f"ROWS: of the {len(questions):,} answers in {options.rows} none is in the documents")
    write_text(Path(options.output), "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    _report(options, Counter(row["kind"] for row in rows), len(questions))
    return 0


def read_questions(
    file: str, columns: Mapping[str, str] | None = None, encoding: str | None = None
) -> list[Question]:
    """All rows of a file; an `input` is part of its question.

    Args:
        file: as of `read_rows`.
        columns: our name ← theirs.
        encoding: of text files; None = UTF-8.

    Raises:
        UserError: no such file, or a row that is broken, or has no question and answer.
    """
    from datamodules.layouts.columns import mapped
    from datamodules.reading.sources import read_rows
    from datamodules.rendering.segments import BadRow

    if not Path(file).exists():
        raise UserError(f"ROWS: {file} does not exist")
    questions = []
    for where, row, problem in read_rows(file, "ROWS", encoding):
        if row is None:
            raise UserError(f"ROWS: {where} {problem}")
        try:
            row = mapped(row, columns or {})
        except BadRow as error:
            raise UserError(f"ROWS: {where}: {error}") from error
        asked, answered = ("question", "answer") if "question" in row else ("instruction", "output")
        texts = [_text(row, column, where) for column in (asked, answered)]
        if asked == "instruction" and row.get("input"):
            texts[0] = f"{texts[0]}\n{_text(row, 'input', where)}"
        questions.append(Question(*texts))
    return questions


def _text(row: dict[str, Any], column: str, where: str) -> str:
    value = row.get(column)
    if isinstance(value, str) and value.strip():
        return value.strip()
    have = ", ".join(f"`{name}`" for name in row) or "no column"
    raise UserError(
        f"ROWS: {where} has no text in `{column}` (it has {have}): a row needs `question` and `answer`, or "
        "`instruction` and `output`"
    )


def reading_rows(
    questions: Sequence[Question],
    gold: Gold,
    restrict_share: float,
    unanswerable_share: float,
    distractors: int,
    seed: int,
) -> list[dict[str, str]]:
    """The rows, in the order of the questions, which alone decide them together with the seed.

    Args:
        questions: with answers that passages hold word for word; the others are left out.
        gold: finds passages with an answer and without it.
        restrict_share: of the rows; the nearest whole number of them.
        unanswerable_share: of those restricted, likewise.
        distractors: passages beside the gold one; one more where it is missing, so that the number of
            passages tells nothing.
        seed: of what is drawn.
    """
    places = [(item, place) for item in tracked(questions, "finding passages") if (place := gold.find(*item))]
    random = Random(seed)
    restricted = random.sample(range(len(places)), round(restrict_share * len(places)))
    unknown = set(random.sample(restricted, round(unanswerable_share * len(restricted))))
    kinds = {number: "unknown" if number in unknown else "restricted" for number in restricted}
    rows = []
    for number, (item, passage) in enumerate(tracked(places, "finding distractors")):
        kind, language = kinds.get(number, "free"), language_of(item.question)
        count = distractors + (kind == "unknown")
        passages = [*gold.distractors(*item, count, random), *([passage.text] if kind != "unknown" else [])]
        random.shuffle(passages)
        restriction = random.choice(RESTRICTIONS[language][:TRAINED])
        wording = None if kind == "free" else restriction.wording
        rows.append(
            {
                "instruction": with_passages(item.question, passages, wording, language),
                "output": restriction.unknown if kind == "unknown" else item.answer,
                "kind": kind,
                "language": language,
            }
        )
    return rows


def _report(options: argparse.Namespace, kinds: Counter[str], read: int) -> None:
    """What was written, as a table or a line of JSON."""
    counts = {**{kind: kinds[kind] for kind in KINDS}, "dropped": read - kinds.total()}
    if options.json:
        print(json.dumps({"output": options.output, "rows": kinds.total(), **counts}))
        return
    table = counts_table("rows", ("count", "share"))
    for kind, meaning in KINDS.items():
        add_counts(table, meaning, [counts[kind]], counts[kind] / read)
    Console().print(table)
    print(f"wrote {options.output}: {kinds.total():,} rows of {read:,} questions")
