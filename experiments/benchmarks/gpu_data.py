"""Rows of every kind of data, a tokenizer and networks for the GPU check, made here: nothing is fetched."""

import json
import random
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, AutoModelForSequenceClassification, AutoTokenizer

from experiments.commands.tokenizer import train

WORDS = (
    *("the", "film", "is", "good", "bad", "great", "dull", "a", "and", "story", "acting", "music", "plot"),
    *("very", "not", "slow", "fun", "sad", "电影", "很好", "不错"),
)


def llama(
    hidden: int, inner: int, layers: int, heads: int, kv_heads: int, vocabulary: int, tied: bool
) -> dict:
    """A llama's config."""
    return {
        "model_type": "llama", "hidden_size": hidden, "intermediate_size": inner, "num_hidden_layers": layers,
        "num_attention_heads": heads, "num_key_value_heads": kv_heads, "vocab_size": vocabulary,
        "max_position_embeddings": 4096, "tie_word_embeddings": tied,
    }  # fmt: skip


TINY = llama(32, 64, 2, 4, 2, 512, tied=True)
SMALL = llama(128, 352, 4, 4, 4, 4096, tied=True)  # the quickstart's
LARGE = {  # by name
    "135 M": llama(576, 1536, 30, 9, 3, 49152, tied=True),  # SmolLM2
    "1 B": llama(2048, 8192, 16, 32, 8, 128256, tied=True),  # Llama 3.2
}


def write_data(folder: Path) -> None:
    """JSON lines for the four stages, and a tokenizer, from a fixed seed."""
    rng = random.Random(0)

    def text(low: int, high: int) -> str:
        return " ".join(rng.choice(WORDS) for _ in range(rng.randint(low, high)))

    def write(name: str, rows: list[dict]) -> str:
        lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
        (folder / name).write_text("".join(lines), encoding="utf-8")
        return str(folder / name)

    for split, size in (("train", 512), ("val", 16)):
        corpus = write(f"corpus.{split}.jsonl", [{"text": text(20, 200)} for _ in range(2 * size)])
        if split == "train":
            train([corpus], 330, str(folder / "tokenizer"))
        instructions = [
            {"instruction": text(1, 8), "output": text(2, 40), "task": "words", "language": "en"}
            for _ in range(size)
        ]
        write(f"instructions.{split}.jsonl", instructions)
        groups = [
            {"instruction": text(1, 4), "replies": [text(3, 30) for _ in range(4)], "ratings": [0, 1, 2, 3]}
            for _ in range(size)
        ]
        write(f"preferences.{split}.jsonl", groups)
        write(f"prompts.{split}.jsonl", [{"instruction": text(1, 8)} for _ in range(size)])


def save_networks(config: dict, tokenizer: Path, folder: Path) -> tuple[str, str]:
    """A random causal language model and a random reward model, as the stages take them."""
    tokens = AutoTokenizer.from_pretrained(tokenizer)
    ids = {f"{name}_token_id": getattr(tokens, f"{name}_token_id") for name in ("pad", "bos", "eos")}
    torch.manual_seed(0)
    for name, auto, more in (
        ("actor", AutoModelForCausalLM, {}),
        ("reward", AutoModelForSequenceClassification, {"num_labels": 1}),
    ):
        options = {**config, **ids, **more}
        model = auto.from_config(AutoConfig.for_model(options.pop("model_type"), **options))
        model.save_pretrained(folder / name)
        tokens.save_pretrained(folder / name)
    return str(folder / "actor"), str(folder / "reward")
