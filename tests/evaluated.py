"""Tiny models in directories and a tiny task, for what evaluates."""

import torch
from transformers import LlamaConfig, LlamaForCausalLM, LlamaForSequenceClassification

from datamodules.rendering.tokenizer import load_tokenizer, vocabulary_size
from experiments.evaluation import Question, Task
from modules.hf_tokenizer import save_tokenizer


def config(tokenizer, positions: int) -> LlamaConfig:
    return LlamaConfig(
        vocab_size=vocabulary_size(tokenizer),
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        max_position_embeddings=positions,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=None,
        initializer_range=0.3,  # so that tokens differ in their likelihood
    )


def save_model(
    folder, tokenizer_path: str, seed: int = 0, positions: int = 4096, reward: bool = False
) -> str:
    """A random model with its tokenizer; the same for the same seed."""
    tokenizer = load_tokenizer(tokenizer_path)
    torch.manual_seed(seed)
    if reward:
        kind = config(tokenizer, positions)
        kind.num_labels = 1
        LlamaForSequenceClassification(kind).save_pretrained(folder)
    else:
        LlamaForCausalLM(config(tokenizer, positions)).save_pretrained(folder)
    save_tokenizer(tokenizer, folder)
    return str(folder)


class Likely(Task):
    """How likely texts are: a number that moves with every step of training."""

    name = "likely"
    metrics = ("logprob",)

    def rows(self):
        return [{"text": f"the film {number} is"} for number in range(6)]

    def prompt(self, row):
        return Question(spans=((row["text"], " very good"),))

    def answer(self, row):
        return ""

    def score(self, row, answer):
        return {"logprob": answer.likelihoods[0].logprob}
