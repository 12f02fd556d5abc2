"""Documents beside a chat: the passages that go into each prompt, and which of them the reply came from."""

import argparse
from collections.abc import Callable, Sequence
from typing import NamedTuple

from datamodules.receipt import printable
from experiments.cli.user_errors import UserError, tell
from experiments.retrieval.index import Hit, Retriever
from experiments.retrieval.library import open_library
from experiments.retrieval.passages import LENGTH
from experiments.retrieval.prompts import RESTRICTIONS, language_of, with_passages
from experiments.retrieval.terms import query_terms, terms

PASSAGES = 3
REMEDY = "give a shorter question or a smaller --max-new-tokens"


class TooLong(UserError):
    """A question and its reply have no room in the model's positions, or no passage beside them."""


class Asked(NamedTuple):
    """A question with passages: the text that the model is given, and the passages in it, best first."""

    text: str
    hits: list[Hit]


class Reading:
    """Documents that every question is asked beside.

    Args:
        retriever: finds their passages.
        count: passages in a prompt, at most.
        restrict: whether the model is told to answer from the passages only, in the question's language.
    """

    def __init__(self, retriever: Retriever, count: int, restrict: bool):
        self.retriever, self.count, self.restrict = retriever, count, restrict

    def ask(self, question: str, room: Callable[[str], int]) -> Asked:
        """Puts the best passages into a prompt, each that still fits.

        Args:
            question: as it was typed.
            room: how many tokens a text leaves free in the model's positions, the reply's own already taken.

        Raises:
            TooLong: there is no room for the question, or none for any passage beside it.
        """
        language = language_of(question)
        restriction = RESTRICTIONS[language][0].wording if self.restrict else None
        (found,) = self.retriever.search([question], self.count)

        def text(hits: Sequence[Hit]) -> str:
            return with_passages(question, [hit.passage.text for hit in hits], restriction, language)

        hits: list[Hit] = []
        for hit in found:
            if room(text([*hits, hit])) >= 0:
                hits.append(hit)
        if (missing := -room(text(hits))) > 0:
            raise TooLong(f"chat: the question and the reply are {missing} tokens too long: {REMEDY}")
        if found and not hits:
            missing = -max(room(text([hit])) for hit in found)
            raise TooLong(
                f"chat: no passage fits beside the question and the reply, the shortest is {missing} "
                f"tokens too long: {REMEDY}, or --passage-length"
            )
        return Asked(text(hits), hits)


def sources(hits: Sequence[Hit], reply: str) -> list[str]:
    """A line for each passage that a reply was given, with its score and how many of the reply's different
    words it has (in Chinese, pairs of characters); `>` stands before the one with the most."""
    if not hits:
        return ["  no passage has a word of the question"]
    words = set(query_terms(reply))
    shared = shared_words([hit.passage.text for hit in hits], reply)
    most = shared.index(max(shared)) if any(shared) else None
    return [
        f"{'>' if place == most else ' '} {printable(hit.passage.source)}  score {hit.score:.2f}, "
        f"{shared[place]} of the reply's {len(words)} words"
        for place, hit in enumerate(hits)
    ]


def shared_words(passages: Sequence[str], reply: str) -> list[int]:
    """How many of a reply's different words each passage has."""
    words = set(query_terms(reply))
    return [len(words & set(terms(passage))) for passage in passages]


def add_options(parser: argparse.ArgumentParser) -> None:
    """The options of a chat beside documents."""
    option = parser.add_argument_group(
        "answers from documents",
        "Each question is then asked by itself, beside the passages that fit it best; the lines after the "
        "reply say which they were, how well they fit, and which has most of the reply's words (`>`).",
    ).add_argument
    option(
        "--documents",
        nargs="+",
        metavar="PATH",
        help="folders, globs, or text, Markdown and JSON-lines files",
    )
    option("--passages", type=int, default=PASSAGES, help=f"in a prompt, as far as they fit ({PASSAGES})")
    option(
        "--passage-length",
        type=int,
        default=LENGTH,
        help=f"bytes of a passage ({LENGTH}; a Chinese character has 3)",
    )
    option(
        "--embeddings", metavar="DIR", help="rank by this sentence-transformers model, not by words (BM25)"
    )
    option("--restrict", action="store_true", help="tell the model to answer from the passages only")


def reading_of(options: argparse.Namespace) -> Reading | None:
    """The documents that a command line names; None where it names none.

    Raises:
        UserError: options that need documents, or what `open_library` refuses.
    """
    if options.passages < 1:
        raise UserError(f"--passages is {options.passages}: give 1 or more")
    if not options.documents:
        for name in ("embeddings", "restrict"):
            if getattr(options, name):
                raise UserError(f"--{name} is about documents: name them with --documents")
        return None
    library = open_library(options.documents, options.passage_length, options.embeddings)
    tell(library.summary())
    return Reading(library.retriever, options.passages, options.restrict)
