"""Which passage holds the answer to a question, and which resemble it without."""

import re
import unicodedata
from collections.abc import Sequence
from random import Random

from experiments.retrieval.index import Retriever
from experiments.retrieval.passages import Passage
from experiments.retrieval.terms import UNSPACED

SEARCHED = 50  # best hits among which the gold passage is looked for
LETTER = rf"[^\W_{UNSPACED}]"


class Gold:
    """Finds passages with an answer and without.

    Args:
        passages: all there are.
        retriever: ranks them.
    """

    def __init__(self, passages: Sequence[Passage], retriever: Retriever):
        self.passages, self.retriever = passages, retriever

    def find(self, question: str, answer: str) -> Passage | None:
        """The passage that fits the question best of those that hold its answer; None where none of the
        `SEARCHED` best does."""
        (hits,) = self.retriever.search([question], SEARCHED)
        return next((hit.passage for hit in hits if holds(hit.passage.text, answer)), None)

    def distractors(self, question: str, answer: str, count: int, random: Random) -> list[str]:
        """The texts, each once, of the `count` passages that fit the question best and do not hold the
        answer; others drawn at random where too few fit, and fewer where there are no others."""
        (hits,) = self.retriever.search([question], SEARCHED + count)
        others = (self.passages[random.randrange(len(self.passages))] for _ in range(20 * count))
        texts: dict[str, None] = {}
        for passage in (*(hit.passage for hit in hits), *others):
            if len(texts) == count:
                break
            if not holds(passage.text, answer):
                texts[passage.text] = None
        return list(texts)


def holds(text: str, answer: str) -> bool:
    """Whether a text has an answer in it word for word, whatever the case, the spaces and the last full stop;
    `art` is not in `part`."""
    wanted = _plain(answer).rstrip(".。!！")
    if not wanted:
        return False
    before = rf"(?<!{LETTER})" if re.match(LETTER, wanted[0]) else ""
    after = rf"(?!{LETTER})" if re.match(LETTER, wanted[-1]) else ""
    return re.search(before + re.escape(wanted) + after, _plain(text)) is not None


def _plain(text: str) -> str:
    return " ".join(unicodedata.normalize("NFKC", text).casefold().split())
