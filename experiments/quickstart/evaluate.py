"""What the quickstart measures beside the stages' own metrics: unigram baselines, reply losses, right
sums."""

import re
from collections.abc import Iterable
from typing import Any

import numpy as np
import torch
from transformers import AutoModelForCausalLM

from datamodules import InstructionData, MixedCorpusData
from datamodules.caching.split import EncodedRows
from experiments.quickstart.judge import bigram_count, distinct_bigrams, pair_accuracy, vader
from modules.backbone import LanguageModel
from modules.generation import generate
from modules.hf_load import load_causal_lm

JsonRows = list[dict[str, Any]]
GIVEN, WRITTEN = 12, 24  # tokens of a continuation in the report


def unigram_losses(data: MixedCorpusData) -> dict[str, float]:
    """Validation loss of each source, in nats per token, under a unigram model with add-one smoothing that
    has counted all of that source's own training tokens."""
    losses = {}
    train_blocks, val_blocks = data.splits["train"].blocks, data.splits["val"].blocks
    for name, train, val in zip(data.source_names, train_blocks, val_blocks, strict=True):
        counts = np.bincount(train.read()[0], minlength=len(data.tokenizer)) + 1.0
        logprobs = np.log(counts / counts.sum())
        tokens, ends = val.read()
        trained = np.ones(len(tokens), dtype=bool)
        trained[np.concatenate([[0], ends[:-1]])] = False  # a document's first token is given
        losses[name] = float(-logprobs[tokens[trained]].mean())
    return losses


def continuations(directory: str, data: MixedCorpusData) -> list[dict[str, str]]:
    """How a random and the pretrained model go on, greedily, from the first tokens of a held-out document of
    each source; samples for the report."""
    model, tokenizer = load_causal_lm(directory).eval(), data.tokenizer
    torch.manual_seed(0)
    models = {
        "before": LanguageModel(AutoModelForCausalLM.from_config(model.config)).eval(),
        "after": LanguageModel(model),
    }
    ends = (data.stop_token_ids, tokenizer.pad_token_id, data.vocabulary)
    samples = []
    split = data.splits["val"]
    for name, blocks in zip(split.names, split.blocks, strict=True):
        documents = EncodedRows(blocks.cache)
        long_enough = int(np.argmax(documents.lengths > GIVEN + WRITTEN))
        ids = documents[long_enough]["input_ids"][:GIVEN].astype(np.int64)
        prompt = torch.from_numpy(ids)[None]
        text = tokenizer.decode(prompt[0], skip_special_tokens=True)
        sample = {"stage": "pretrain", "prompt": text, "note": name}
        for when, each in models.items():
            mask = torch.ones_like(prompt, dtype=torch.bool)
            written, kept = generate(each, prompt, mask, WRITTEN, *ends)
            sample[when] = tokenizer.decode(written[0][kept[0]], skip_special_tokens=True)
        samples.append(sample)
    return samples


@torch.no_grad()
def reply_losses(directory: str, data: InstructionData) -> dict[str, float]:
    """Loss of each task's held-out replies in nats per token, EOS not counted."""
    model = LanguageModel(load_causal_lm(directory)).eval()
    total, count = np.zeros(len(data.source_names)), np.zeros(len(data.source_names))
    for batch in data.val_dataloader():
        labels = torch.where(batch["labels"] == data.tokenizer.eos_token_id, -100, batch["labels"])
        losses = model(batch["input_ids"], labels, batch["position_ids"], batch["document_ids"])
        np.add.at(total, batch["source"].numpy(), losses.sum(1).double().numpy())
        np.add.at(count, batch["source"].numpy(), (labels[:, 1:] != -100).sum(1).numpy())
    return {name: float(s / n) for name, s, n in zip(data.source_names, total, count, strict=True) if n}


def share_right(replies: Iterable[str], answers: Iterable[str]) -> float:
    """Share of replies whose last number, as it is written, is the answer's."""
    given, right = ([re.findall(r"-?\d+", text)[-1:] for text in texts] for texts in (replies, answers))
    return sum(reply == answer for reply, answer in zip(given, right, strict=True)) / len(right)


def reward_accuracy(predictions: JsonRows, preferences: JsonRows) -> dict[str, float]:
    """Pair accuracy of the reward model, and of the VADER lexicon, on held-out pairs with rating gap ≥ 1."""
    scores = [score for row in predictions for score in row["scores"]]
    rows = [preferences[row["row"]] for row in predictions]
    ratings = [rating for row in rows for rating in row["ratings"]]
    lexicon = vader([reply for row in rows for reply in row["replies"]])
    accuracy, stderr, pairs = pair_accuracy(scores, ratings)
    vader_accuracy, vader_stderr, _ = pair_accuracy(lexicon, ratings)
    return {
        "reward/accuracy": accuracy,
        "reward/accuracy_stderr": stderr,
        "reward/pairs": pairs,
        "vader/accuracy": vader_accuracy,
        "vader/accuracy_stderr": vader_stderr,
    }


def judge_responses(before: JsonRows, after: JsonRows) -> dict[str, float]:
    """The judge's mean on continuations before and after PPO, and what shows whether it was reached honestly.

    Both are continuations of the same openings; the standard error is that of the paired difference.
    """
    texts = [[row["response"] for row in rows] for rows in (before, after)]
    scores = [np.array(vader(part)) for part in texts]
    difference = scores[1] - scores[0]
    limit = min(bigram_count(part) for part in texts)
    lengths = [float(np.mean([row["tokens"] for row in rows])) for rows in (before, after)]
    return {
        "judge/before": float(scores[0].mean()),
        "judge/after": float(scores[1].mean()),
        "judge/stderr": float(difference.std(ddof=1) / np.sqrt(len(difference))),
        "judge/openings": len(difference),
        "judge/distinct_bigrams_before": distinct_bigrams(texts[0], limit),
        "judge/distinct_bigrams_after": distinct_bigrams(texts[1], limit),
        "judge/length_before": lengths[0],
        "judge/length_after": lengths[1],
        "ppo/score_before": float(np.mean([row["score"] for row in before])),
        "ppo/score_after": float(np.mean([row["score"] for row in after])),
        "ppo/kl_per_sequence": float(np.mean([row["kl"] for row in after])),
        "ppo/eos_share": float(np.mean([row["ended"] for row in after])),
    }
