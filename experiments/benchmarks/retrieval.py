"""How often the right passage is found: recall among the best 1, 3 and 10, of BM25 and of embeddings.

    python -m experiments.benchmarks.retrieval                 # Python's reference: heading → section
    python -m experiments.benchmarks.retrieval FILE… --embeddings DIR

A FILE is JSON lines `question`, `text` and maybe `title`. A question is right where one of the passages is
found that its `text` was cut into. Headings are no part of the reference's passages but with `--titles`.
"""

import argparse
import json
import re
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

from experiments.retrieval.index import BM25, Embeddings
from experiments.retrieval.passages import LENGTH, read_passages
from experiments.statistics import rate

AMONG = (1, 3, 10)
HEADING = re.compile(r"^(?P<title>\S[^\n]*)\n[*=~^-]{3,}\n", re.MULTILINE)


def main() -> None:
    """Prints a line for each file and ranking."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    option = parser.add_argument
    option("files", nargs="*", metavar="FILE", help="rows `question` and `text`; Python's reference without")
    option("--embeddings", metavar="DIR", help="a sentence-transformers directory, beside BM25")
    option("--passage-length", type=int, default=LENGTH, help=f"bytes ({LENGTH})")
    option("--titles", action="store_true", help="put the reference's headings into its passages")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        reference = Path(folder, "reference.jsonl")
        rows = reference_rows(options.titles)
        reference.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
        for file in options.files or [str(reference)]:
            measure(file, options.passage_length, options.embeddings)


def measure(file: str, length: int, embeddings: str | None) -> None:
    """Prints how well the questions of a file find their texts."""
    passages = read_passages([file], length)
    rows = [json.loads(line) for line in Path(file).read_text(encoding="utf-8").splitlines()]
    questions = [(row["question"], f"{file}:{number}") for number, row in enumerate(rows, 1)]
    same: dict[str, set[str]] = {}  # rows of one text are one answer
    for row, (_, source) in zip(rows, questions, strict=True):
        same.setdefault(row["text"], set()).add(source)
    for name in ("BM25", "embeddings") if embeddings else ("BM25",):
        began = time.perf_counter()
        retriever = Embeddings(passages, embeddings) if embeddings and name != "BM25" else BM25(passages)
        indexed = time.perf_counter()
        found = retriever.search([question for question, _ in questions], max(AMONG))
        searched = time.perf_counter()
        ranks = [
            next(
                (rank for rank, hit in enumerate(hits) if hit.passage.source in same[row["text"]]), max(AMONG)
            )
            for row, hits in zip(rows, found, strict=True)
        ]
        print(f"{Path(file).name}, {name}: {len(passages):,} passages, {len(rows):,} questions")
        for count in AMONG:
            recall = rate([rank < count for rank in ranks])
            print(f"  recall@{count:<2} {recall.value:.3f} [{recall.low:.3f}, {recall.high:.3f}]")
        print(f"  index {indexed - began:.1f} s, {1e3 * (searched - indexed) / len(rows):.1f} ms a question")


def reference_rows(titles: bool) -> Iterator[dict[str, str]]:
    """Every section of the language reference that ships with the interpreter, each text once."""
    from pydoc_data.topics import topics

    seen = set()
    for name in sorted(topics):
        heads = list(HEADING.finditer(topics[name]))
        ends = [head.start() for head in heads[1:]] + [len(topics[name])]
        for head, end in zip(heads, ends, strict=True):
            text = topics[name][head.end() : end].strip()
            if text and text not in seen:
                seen.add(text)
                row = {"question": f"What is {head['title']}?", "text": text}
                yield {**row, "title": head["title"]} if titles else row


if __name__ == "__main__":
    main()
