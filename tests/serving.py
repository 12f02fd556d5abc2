"""Models that are served in a test: random ones, quick to make, whose replies are long and varied."""

import threading
from contextlib import contextmanager
from typing import Any

import torch

from experiments.evaluation.engine import Model
from experiments.web.access import Access
from experiments.web.serve import application, parser
from modules.documents import Route
from tests.browsing import served


def random_model(folder: Any, tokenizer: str, config: dict, seed: int = 0) -> str:
    """A directory with a random network whose logits differ widely, so that no two tokens are nearly alike,
    and whose likeliest tokens are words: what it says greedily can be read."""
    from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

    words = AutoTokenizer.from_pretrained(tokenizer)
    words.save_pretrained(folder)
    torch.manual_seed(seed)
    sizes = {**config, "initializer_range": 0.5, "tie_word_embeddings": False, "vocab_size": len(words)}
    model = AutoModelForCausalLM.from_config(AutoConfig.for_model(**sizes))
    with torch.no_grad():
        for token in range(len(words)):
            text = words.decode([token])
            if len(text) < 2 or not text.strip().isalpha() or token == words.eos_token_id:
                model.lm_head.weight[token] = 0
    model.config.eos_token_id = model.generation_config.eos_token_id = words.eos_token_id
    model.save_pretrained(folder)
    return str(folder)


@contextmanager
def serving(hosted: Any, *options: str, access: Access = Access(port=0), reading: Any = None):  # noqa: B008
    """Serves what is loaded; gives the address."""
    with served(application(hosted, access, parser().parse_args(["DIR", *options]), reading), access) as url:
        yield url


class Saying:
    """Stands in for a network: after any prompt it says one text, whatever its tokens are."""

    route = Route(decoding="recomputed")

    def __init__(self, model: Model, text: str):
        self.model = model.network.model
        self.ids = [*model.tokenizer.encode(text, add_special_tokens=False), model.tokenizer.eos_token_id]
        self.prompt: list[int] = []
        self.going_on = threading.Event()  # cleared, it waits before the 50th token
        self.going_on.set()

    def next_logits(self, input_ids, attention_mask, position_ids, cache):
        ids = input_ids[0].tolist()
        said = len(ids) - len(self.prompt)
        if (
            not self.prompt
            or ids[: len(self.prompt)] != self.prompt
            or self.ids[:said] != ids[-said or len(ids) :]
        ):
            self.prompt, said = ids, 0
        if said >= 50:
            self.going_on.wait()
        logits = torch.full((1, self.model.config.vocab_size), -10.0)
        logits[0, self.ids[said]] = 10.0
        return logits
