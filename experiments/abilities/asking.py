"""Puts questions to a trained model and keeps every answer."""

import json
from collections.abc import Iterable, Iterator, Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from transformers import AutoModelForCausalLM

from experiments.abilities.ability import END, PAD, Ability, Answers, Question
from experiments.atomic import write_text

AT_ONCE = 250
"""items of a forward pass"""


class Asked:
    """The model of a Hugging Face directory, as plain transformers computes it."""

    def __init__(self, directory: Path):
        self.model: Any = AutoModelForCausalLM.from_pretrained(directory).float().eval()

    @torch.no_grad()
    def logits(self, ids: np.ndarray) -> Tensor:
        """(items, T) words → (items, T, V)."""
        parts = torch.from_numpy(np.ascontiguousarray(ids)).split(AT_ONCE)
        return torch.cat([self.model(part, use_cache=False).logits for part in parts])

    @torch.no_grad()
    def greedy(self, prompts: np.ndarray, count: int) -> np.ndarray:
        """The likeliest word, `count` times: (items, P) → (items, count)."""
        replies = []
        for ids in torch.from_numpy(np.ascontiguousarray(prompts)).split(AT_ONCE):
            exactly = {"max_new_tokens": count, "min_new_tokens": count, "do_sample": False}
            mask = torch.ones_like(ids)
            replies.append(self.model.generate(ids, attention_mask=mask, **exactly)[:, ids.shape[1] :])
        return torch.cat(replies).numpy()

    def answer(self, question: Question) -> Answers:
        """Its answers to the items of a condition."""
        length = question.expected.shape[1]
        answers = self.greedy(question.prompts, length)
        whole = np.concatenate([question.prompts, question.expected], 1)
        logprobs = self.logits(whole)[:, -length - 1 : -1].log_softmax(-1)
        wanted = torch.from_numpy(question.expected)[..., None]
        first = logprobs[:, 0]
        columns = {
            "nll": -logprobs.gather(-1, wanted)[..., 0].mean(1).numpy(),
            "entropy": -(first.exp() * first).sum(-1).numpy(),
        }
        right = (answers == question.expected)[:, question.judged :].all(1)
        return Answers(question.condition, right, answers, question.expected, question.prompts, columns)


def items_sha256(questions: Iterable[Question]) -> str:
    """What tells two tests apart: of all conditions, prompts and expected answers."""
    digest = sha256()
    for question in questions:
        digest.update(question.condition.encode())
        for array in (question.prompts, question.expected):
            digest.update(repr(array.shape).encode() + np.ascontiguousarray(array, dtype=np.int64).tobytes())
    return digest.hexdigest()


def save(answers: Iterable[Answers], ability: Ability, file: Path) -> None:
    """JSON lines, one an item: its condition, words, whether it is right."""
    write_text(file, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in _lines(answers, ability)))


def _lines(answers: Iterable[Answers], ability: Ability) -> Iterator[dict[str, Any]]:
    for each in answers:
        columns = [each.prompts, each.expected, each.answers]
        for item, (prompt, expected, answer) in enumerate(zip(*columns, strict=True)):
            yield {
                "condition": each.condition,
                "item": item,
                "right": bool(each.right[item]),
                "prompt": ability.text(prompt),
                "expected": ability.text(expected),
                "answer": ability.text(answer),
                **{name: round(float(values[item]), 6) for name, values in each.columns.items()},
            }


def load(file: Path, ability: Ability) -> Mapping[str, Answers]:
    """Condition → answers, as `save` wrote them."""
    numbers = {word: number for number, word in enumerate([*ability.vocabulary(), END, PAD])}
    conditions: dict[str, list[dict[str, Any]]] = {}
    with file.open(encoding="utf-8") as lines:
        for line in lines:
            row = json.loads(line)
            conditions.setdefault(row["condition"], []).append(row)

    def ids(rows: list[dict[str, Any]], name: str) -> np.ndarray:
        return np.array([[numbers[word] for word in row[name].split()] for row in rows])

    answers = {}
    for condition, rows in conditions.items():
        columns = [name for name, value in rows[0].items() if isinstance(value, float)]
        answers[condition] = Answers(
            condition,
            np.array([row["right"] for row in rows]),
            ids(rows, "answer"),
            ids(rows, "expected"),
            ids(rows, "prompt"),
            {name: np.array([row[name] for row in rows]) for name in columns},
        )
    return answers
