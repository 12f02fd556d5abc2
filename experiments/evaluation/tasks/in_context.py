"""What a model makes of the text before: its loss late in a document against that early in it, and against
the same words after a beginning from another document."""

import random
import re

from experiments.evaluation.task import Answer, Question, Row, Scores, Task

LENGTH = 640  # characters of an excerpt
EARLY, LATE, SPAN = 100, 560, 80  # characters before the two stretches, and of each
PER_TOPIC = 3


class InContext(Task):
    """Excerpts of the Python interpreter's own help (`pydoc_data.topics`).

    `score` is Olsson et al.'s (2209.11895): nats per token late − early, below 0 where context helps, with
    tokens 500 and 50 there and characters here, which are the same for every tokenizer. `gain` is by how much
    the true beginning helps against another document's, in nats per byte.
    """

    name = "in-context"
    metrics = ("gain", "score")

    def rows(self) -> list[Row]:
        from pydoc_data.topics import topics

        excerpts: list[tuple[str, str]] = []
        for topic, page in sorted(topics.items()):
            text = re.sub(r"[\s*=\-~^\"]+", " ", page).strip()
            starts = range(0, min(len(text) - LENGTH, PER_TOPIC * LENGTH), LENGTH)
            excerpts += [(topic, text[start : start + LENGTH]) for start in starts]
        random.Random("in-context").shuffle(excerpts)
        rows = []
        for number, (topic, text) in enumerate(excerpts):
            others = excerpts[number + 1 :] + excerpts[:number]
            other = next(each for name, each in others if name != topic)
            rows.append({"topic": topic, "text": text, "other": other})
        return rows

    def prompt(self, row: Row) -> Question:
        text = row["text"]
        early, late = (text.index(" ", place) for place in (EARLY, LATE))
        ends = [_end(text, place) for place in (early, late)]
        beginning = row["other"][: row["other"].rindex(" ", 0, late)]
        spans = (
            (text[:early], text[early : ends[0]]),
            (text[:late], text[late : ends[1]]),
            (beginning, text[late : ends[1]]),
        )
        return Question(spans=spans)

    def answer(self, row: Row) -> str:
        return ""

    def score(self, row: Row, answer: Answer) -> Scores:
        early, late, other = answer.likelihoods
        size = len(self.prompt(row).spans[1][1].encode())
        losses = [-each.logprob / each.tokens for each in (early, late)]
        return {"gain": (late.logprob - other.logprob) / size, "score": losses[1] - losses[0]}


def _end(text: str, start: int) -> int:
    """Where the stretch ends that begins here: with a whole word, or the text."""
    end = text.rfind(" ", start + 1, start + SPAN)
    return len(text) if end < 0 else end
