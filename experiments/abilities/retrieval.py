"""Retrieval against hallucination: with the right passage in its prompt, a model answers about people whom it
has never seen; without, it makes something up."""

from functools import cached_property
from typing import Any, ClassVar

import numpy as np

from experiments.abilities.ability import Bar, Finding, Headline, Question, Runs, by_seed, pooled
from experiments.abilities.knowledge import (
    MODE,
    PEOPLE,
    SOURCE,
    WORDINGS,
    Context,
    Group,
    Knowledge,
    asked,
    passages,
)
from experiments.statistics import Estimate, mcnemar, rate

FOUND = 3
"""passages that are retrieved for a question"""
COLLECTIONS = {"all": 1.0, "70 %": 0.7}
"""share of the people whose passages are in the collection that is searched"""
GROUPS: tuple[Group, ...] = ("known", "unseen")
CONTEXTS: tuple[Context, ...] = ("none", "gold", "wrong", "counterfactual")
SEVERAL = (1, 2, 4, 6, 8)


class Retrieval(Knowledge):
    """Questions about known and unseen people: without a passage, with the right one among others, with wrong
    ones, with what BM25 finds in thousands, and with one that contradicts the weights."""

    name: ClassVar[str] = "retrieval"

    def questions(self, arm: str) -> list[Question]:
        plain = [self.question(group, context, "free") for group in GROUPS for context in CONTEXTS]
        crowded = [self.question("unseen", "gold", "free", several) for several in SEVERAL]
        named = zip(crowded, SEVERAL, strict=True)
        return [
            *plain,
            *(question._replace(condition=f"gold among {several}") for question, several in named),
            *(self._retrieved(collection) for collection in COLLECTIONS),
        ]

    @cached_property
    def hits(self) -> dict[str, np.ndarray]:
        """Collection → (items, 3) people whose passages BM25 finds for the questions about unseen people."""
        from experiments.retrieval.index import BM25
        from experiments.retrieval.passages import Passage

        everybody = np.arange(PEOPLE)
        documents = passages(everybody[:, None], self.world.facts[:, None])
        texts = [self.written(row) for row in documents]
        people, kinds = self.asked_about("unseen")
        wordings = np.broadcast_to(np.add(WORDINGS["free"][0], (MODE, SOURCE)), (self.items, 2))
        queries = [self.written(row[2:-1]) for row in asked(wordings, people, kinds)]
        order, found = np.random.default_rng(4).permutation(PEOPLE), {}
        for name, share in COLLECTIONS.items():
            held = order[: round(share * PEOPLE)]
            index = BM25([Passage(texts[person], str(person)) for person in held])
            hits = index.search(queries, FOUND)
            found[name] = np.array([[int(hit.passage.source) for hit in best] for best in hits])
        return found

    def written(self, ids: np.ndarray) -> str:
        """Words as its language writes them: Chinese names are not spaced."""
        vocabulary = self.vocabulary()
        if self.language == "en":
            return " ".join(vocabulary[i] for i in ids)
        return vocabulary[ids[0]] + vocabulary[ids[1]] + " " + " ".join(vocabulary[i] for i in ids[2:])

    def recall(self, collection: str) -> np.ndarray:
        """(items,) bool: whether the right passage is among those that were found."""
        people, _ = self.asked_about("unseen")
        return (self.hits[collection] == people[:, None]).any(1)

    def _retrieved(self, collection: str) -> Question:
        """The questions about unseen people, with what BM25 found, in any order."""
        free = self.question("unseen", "none", "free")
        around = np.random.default_rng(5).permuted(self.hits[collection], axis=1)
        prompts = np.concatenate([passages(around, self.world.facts[around]), free.prompts], 1)
        return Question(f"BM25, {collection}", prompts, free.expected)

    def finding(self, runs: Runs) -> Finding:
        arm = "reader"
        conditions = list(next(iter(runs.values())))
        rates: dict[str, Estimate] = {name: rate(pooled(runs, arm, name)) for name in conditions}
        results: dict[str, Any] = {**rates}
        bars = [
            self._bar(runs, "unseen, none, free", 0.05, at_least=False),
            self._bar(runs, "unseen, gold, free", 0.90, at_least=True),
            self._bar(runs, "known, none, free", 0.95, at_least=True),
        ]
        reader, rest = rates["unseen, gold, free"].value, rates["unseen, wrong, free"].value
        for name in COLLECTIONS:
            recall = float(self.recall(name).mean())
            results[f"recall@{FOUND}, {name}"] = recall
            results[f"predicted, {name}"] = recall * reader + (1 - recall) * rest
        recall = results[f"recall@{FOUND}, all"]
        bars.append(self._bar(runs, "BM25, all", 0.95 * recall, at_least=True))
        paired = mcnemar(pooled(runs, arm, "unseen, gold, free"), pooled(runs, arm, "unseen, none, free"))
        return Finding(Headline("unseen, with the passage", "unseen, without", paired), bars, results)

    @staticmethod
    def _bar(runs: Runs, condition: str, threshold: float, at_least: bool) -> Bar:
        values = by_seed(runs, "reader", condition)
        return Bar(condition, values, rate(pooled(runs, "reader", condition)), threshold, at_least)
