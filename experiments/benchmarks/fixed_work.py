"""The same work for every run of a benchmark: networks of fixed sizes with random weights, a tokenizer of
numbered words, and rows whose lengths are spread as those of instructions are."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.random import Generator

SPECIAL = ("<pad>", "<s>", "</s>")
PROMPT_LENGTHS = (10, 80, 30, 0.6)
"""tokens: fewest, most, median, and σ of the logarithm"""
REPLY_LENGTHS = (10, 200, 60, 0.7)
PPO_PROMPT_LENGTHS = (16, 64, 32, 0.4)


def _llama(vocabulary: int, hidden: int, inner: int, layers: int, heads: int, kv_heads: int) -> dict:
    return {
        "model_type": "llama",
        "vocab_size": vocabulary,
        "hidden_size": hidden,
        "intermediate_size": inner,
        "num_hidden_layers": layers,
        "num_attention_heads": heads,
        "num_key_value_heads": kv_heads,
        "max_position_embeddings": 4096,
        "tie_word_embeddings": True,
    }


MODELS = {
    "tiny": _llama(8192, 384, 1024, 6, 6, 6),  # 13.8 M parameters
    "narrow": _llama(4096, 192, 512, 4, 4, 4),  # 2.6 M
    "smollm": _llama(49152, 576, 1536, 30, 9, 3),  # the shapes of SmolLM2-135M
}


class Text(NamedTuple):
    """Draws texts of numbered words, each of them one token; common words are as common as in a language."""

    rng: Generator
    vocabulary: int

    def words(self, count: int) -> str:
        """So many words after the law of Zipf and Mandelbrot: the frequency of rank r is ∝ 1 / (r + 2.7)."""
        weights = 1 / (np.arange(1, self.vocabulary - len(SPECIAL) + 1) + 2.7)
        shares = np.cumsum(weights / weights.sum())
        ranks = np.searchsorted(shares, self.rng.random(count)).clip(max=len(shares) - 1)
        return " ".join(f"w{rank + len(SPECIAL)}" for rank in ranks)

    def lengths(self, count: int, fewest: int, most: int, median: float, sigma: float) -> np.ndarray:
        """(count,) tokens, log-normal within limits."""
        drawn = median * np.exp(sigma * self.rng.standard_normal(count))
        return np.clip(np.round(drawn), fewest, most).astype(np.int64)


def documents(vocabulary: int, count: int, tokens: int) -> Iterator[dict]:
    """Rows for pretraining, each of exactly so many tokens with bos and eos."""
    text = Text(np.random.default_rng(0), vocabulary)
    for _ in range(count):
        yield {"text": text.words(tokens - 2)}


def instructions(vocabulary: int, count: int) -> Iterator[dict]:
    """Rows for SFT: the prompt's length counts its bos, the reply's its eos."""
    text = Text(np.random.default_rng(1), vocabulary)
    lengths = text.lengths(count, *PROMPT_LENGTHS), text.lengths(count, *REPLY_LENGTHS)
    for prompt, reply in zip(*lengths, strict=True):
        yield {"instruction": text.words(prompt - 1), "output": text.words(reply - 1)}


def comparisons(vocabulary: int, count: int, replies: int, prompt_tokens: int | None) -> Iterator[dict]:
    """Rows for the reward model, replies ranked best first; every prompt of `prompt_tokens` where that is
    given."""
    text = Text(np.random.default_rng(2), vocabulary)
    prompts = text.lengths(count, *PROMPT_LENGTHS)
    if prompt_tokens is not None:
        prompts = np.full(count, prompt_tokens)
    lengths = np.stack([text.lengths(count, *REPLY_LENGTHS) for _ in range(replies)], axis=1)
    for prompt, row in zip(prompts, lengths, strict=True):
        instruction = text.words(prompt - 1)
        yield {"instruction": instruction, "replies": [text.words(reply - 1) for reply in row]}


def prompts(vocabulary: int, count: int) -> Iterator[dict]:
    """Rows for PPO."""
    text = Text(np.random.default_rng(3), vocabulary)
    for length in text.lengths(count, *PPO_PROMPT_LENGTHS):
        yield {"instruction": text.words(length - 1)}


def write_rows(file: Path, rows: Iterator[dict]) -> str:
    """JSON lines; gives the file's name."""
    file.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(file)


def write_tokenizer(folder: Path, vocabulary: int) -> str:
    """A tokenizer of words between blanks, `w3`, `w4`, … with their numbers as ids."""
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import PreTrainedTokenizerFast

    words = [*SPECIAL, *(f"w{i}" for i in range(len(SPECIAL), vocabulary))]
    words_to_ids = {word: i for i, word in enumerate(words)}
    tokenizer = Tokenizer(models.WordLevel(words_to_ids, unk_token=SPECIAL[0]))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    pad, bos, eos = SPECIAL
    names = {"pad_token": pad, "bos_token": bos, "eos_token": eos, "unk_token": pad}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **names).save_pretrained(folder)
    return str(folder)


def write_network(folder: Path, config: dict[str, Any], scalar: bool = False) -> str:
    """A checkpoint of random weights: a causal language model, or one with a `scalar` head."""
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification

    torch.manual_seed(0)
    pad, bos, eos = range(len(SPECIAL))
    ids = {"pad_token_id": pad, "bos_token_id": bos, "eos_token_id": eos}
    hf_config = AutoConfig.for_model(**{**config, **ids, **({"num_labels": 1} if scalar else {})})
    kind = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    kind.from_config(hf_config).save_pretrained(folder)
    return str(folder)
