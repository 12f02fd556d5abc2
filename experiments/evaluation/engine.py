"""A model as tasks see it: how likely texts are, and what it replies, in batches of like length."""

import hashlib
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from datamodules.collate import prompts as prompt_batch
from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.stop_tokens import stop_tokens
from datamodules.rendering.tokenizer import load_tokenizer, vocabulary_size
from datamodules.rendering.whole_text import encode_batch
from experiments.cli.user_errors import USER_ERRORS, UserError
from experiments.evaluation.task import Likelihood, Reply
from modules.backbone import LanguageModel
from modules.generation import generate
from modules.hf_config import saved_config
from modules.hf_load import load_causal_lm, parent_problem
from modules.probe import language_model
from modules.training_data import own_stop_tokens, positions_of

TOKENS = 8192  # computed together, at most, where one text is not longer
UNBOUNDED = 2**31
KEPT = ("*.safetensors", "*.json", "*.jinja", "*.model", "*.txt")
SAYS_NOTHING = ("provenance.json", "README.md")  # of what a model computes
Tick = Callable[[int], Any]
"""told how many requests have been answered since it was told last"""


def nobody(count: int) -> None:
    """Where nobody wants to know how far it is."""


class Model:
    """A causal language model and its tokenizer.

    Args:
        network: as `language_model` gives it, or a stage has it.
        tokenizer: a Hugging Face tokenizer with an eos and a pad token.
        name: what refusals call it.
        any_rank: of the strategy that has cut the network, as `generate` needs it.
        device: where it computes; None = where its weights are.
    """

    def __init__(
        self,
        network: LanguageModel,
        tokenizer: Any,
        name: str,
        any_rank: Callable[[Tensor], bool] = bool,
        device: torch.device | None = None,
    ):
        self.device = device or network.model.device
        self.network, self.tokenizer, self.name, self.any_rank = network, tokenizer, name, any_rank
        self.positions = positions_of(network.model)
        self.vocabulary = vocabulary_size(tokenizer)
        own = own_stop_tokens(network.model, tokenizer)
        self.stops = list(dict.fromkeys([*stop_tokens(tokenizer), *own]))
        bos = tokenizer.bos_token_id
        self.prefix = tokenizer.eos_token_id if bos is None else bos
        """stands before a text that has no context"""
        self.forward_context: Callable[[], Any] = nullcontext
        """entered around every forward: a trainer's precision"""

    @classmethod
    def load(cls, path: str, name: str, command: str = "evaluate") -> "Model":
        """A model from a Hugging Face directory or the hub's cache, in fp32, on the GPU where there is one;
        `command` is what refusals name.

        Raises:
            UserError: it is no causal language model, or has no tokenizer that fits.
        """
        check_path(path, command)
        tokenizer = tokenizer_of(path, command)
        model: Any = load_causal_lm(path).float().eval()
        rows = model.get_input_embeddings().num_embeddings
        if vocabulary_size(tokenizer) > rows:
            raise UserError(
                f"{command}: {path}: the tokenizer has ids up to {vocabulary_size(tokenizer) - 1}, but the "
                f"model has {rows} embeddings: give a model with the tokenizer that belongs to it"
            )
        network = language_model(model.to("cuda" if torch.cuda.is_available() else "cpu"))
        return cls(network.eval(), tokenizer, name)

    def context_ids(self, texts: Sequence[str], instruction: bool) -> list[list[int]]:
        """The tokens of prompts. An instruction goes through the tokenizer's chat template, or has a line of
        its own where there is none; a plain text has what the tokenizer adds by itself (bos), as in
        lm-eval."""
        if instruction and self.tokenizer.chat_template:
            template = ChatTemplate()
            rows = [template.prompt({"instruction": text}, 0, self.tokenizer) for text in texts]
            return [tokens.ids.tolist() for tokens in encode_batch(self.tokenizer, rows)]
        return [self._encode(f"{text}\n" if instruction else text) for text in texts]

    def request_ids(self, request: tuple[str, str], instruction: bool = False) -> tuple[list[int], list[int]]:
        """The tokens of a context and of its continuation, cut as lm-eval cuts them: the whole text is
        tokenised, spaces at the context's end belong to the continuation, and an empty context is one bos
        (or eos) token."""
        context, continuation = request
        if instruction and self.tokenizer.chat_template:
            (ids,) = self.context_ids([context], instruction)
            return ids, self.tokenizer.encode(continuation, add_special_tokens=False)
        if not context:
            ids = self.tokenizer.encode(continuation, add_special_tokens=False)
            return (ids[:1], ids[1:]) if ids[:1] == [self.prefix] else ([self.prefix], ids)
        context = f"{context}\n" if instruction else context
        spaces = len(context) - len(context.rstrip())
        if spaces:
            context, continuation = context[:-spaces], context[-spaces:] + continuation
        ids = self._encode(context)
        return ids, self._encode(context + continuation)[len(ids) :]

    def _encode(self, text: str) -> list[int]:
        begins = text.startswith(
            self.tokenizer.decode([self.prefix])
        )  # a text that has its bos gets no other
        return self.tokenizer.encode(text, **({"add_special_tokens": False} if begins else {}))

    def loglikelihoods(
        self, requests: Sequence[tuple[str, str]], instruction: bool = False, tick: Tick = nobody
    ) -> list[Likelihood]:
        """How likely each continuation is after its context; contexts that several share are computed once.

        Args:
            requests: (context, continuation) pairs.
            instruction: contexts are instructions, which a chat template lays out.

        Raises:
            UserError: a text is longer than the model's positions.
        """
        pairs = [self.request_ids(request, instruction) for request in requests]
        lengths = [len(context) + len(continuation) for context, continuation in pairs]
        for length in lengths:
            self.check_room(length, 0)
        order = sorted(range(len(pairs)), key=lambda i: (-len(pairs[i][0]), pairs[i][0], -lengths[i]))
        answers: list[Likelihood | None] = [None] * len(pairs)
        for batch in batches(order, lengths):
            likelihoods = self._likelihoods([pairs[i] for i in batch])
            for i, likelihood in zip(batch, likelihoods, strict=True):
                answers[i] = likelihood
            tick(len(batch))
        return [answer for answer in answers if answer is not None]

    def _likelihoods(self, pairs: Sequence[tuple[list[int], list[int]]]) -> list[Likelihood]:
        shape = len(pairs), max(len(context) + len(continuation) for context, continuation in pairs)
        ids = torch.zeros(shape, dtype=torch.int64)
        labels, owners = torch.full(shape, -100), torch.full(shape, -1)
        groups: dict[tuple[int, ...], int] = {}
        for row, (context, continuation) in enumerate(pairs):
            end = len(context) + len(continuation)
            ids[row, :end] = torch.tensor(context + continuation)
            labels[row, len(context) : end] = ids[row, len(context) : end]
            owners[row, :end] = row
            groups.setdefault(tuple(context), len(groups))
        positions = torch.arange(shape[1]).expand(shape)
        shared = torch.tensor([groups[tuple(context)] for context, _ in pairs])
        with self.forward_context():
            tensors = [tensor.to(self.device) for tensor in (ids, labels, positions, owners, shared)]
            losses, greedy = (part.cpu() for part in self.network.judge(*tensors))
        counts = [len(continuation) for _, continuation in pairs]
        return [
            Likelihood(-float(loss.double().sum()), count, bool(likeliest.all()))
            for loss, likeliest, count in zip(losses.split(counts), greedy.split(counts), counts, strict=True)
        ]

    def replies(
        self,
        prompts: Sequence[str],
        max_new_tokens: int,
        stops: Sequence[str] = (),
        tick: Tick = nobody,
    ) -> list[Reply]:
        """The greedy reply to each instruction, up to a stop token or the first of the stop texts.

        Raises:
            UserError: a prompt leaves no room for a reply within the model's positions.
        """
        ids = self.context_ids(prompts, instruction=True)
        for prompt in ids:
            self.check_room(len(prompt), max_new_tokens)
        order = sorted(range(len(ids)), key=lambda i: -len(ids[i]))
        answers: dict[int, Reply] = {}
        for batch in batches(order, [len(prompt) + max_new_tokens for prompt in ids]):
            texts = self._replies([ids[i] for i in batch], max_new_tokens)
            for i, (text, ended) in zip(batch, texts, strict=True):
                cuts = [place for stop in stops if (place := text.find(stop)) >= 0]
                answers[i] = Reply(text[: min(cuts)], True) if cuts else Reply(text, ended)
            tick(len(batch))
        return [answers[i] for i in range(len(ids))]

    def _replies(self, prompts: Sequence[list[int]], max_new_tokens: int) -> Iterator[tuple[str, bool]]:
        device, tokenizer = self.device, self.tokenizer
        batch = prompt_batch([torch.tensor(ids).numpy() for ids in prompts], tokenizer.pad_token_id, None)
        with self.forward_context():
            written, kept = generate(
                self.network,
                batch["prompt_ids"].to(device),
                batch["prompt_mask"].to(device),
                max_new_tokens,
                self.stops,
                tokenizer.pad_token_id,
                self.vocabulary,
                any_rank=self.any_rank,
                max_positions=self.positions,
            )
        for row, mask in zip(written.cpu(), kept.cpu(), strict=True):
            ids = row[mask].tolist()
            ended = not set(ids).isdisjoint(self.stops)
            yield tokenizer.decode(ids, skip_special_tokens=True), ended

    def room(self, tokens: int) -> int:
        """Positions that are left after so many tokens; very many where positions are relative."""
        return (UNBOUNDED if self.positions is None else self.positions) - tokens

    def check_room(self, tokens: int, new_tokens: int) -> None:
        """Refuses a prompt that is too long, or leaves too little for what is to be written."""
        if self.positions is not None and tokens + new_tokens > self.positions:
            written = f" and {new_tokens} to be written" if new_tokens else ""
            raise NoRoom(
                f"a prompt of {tokens} tokens{written} do not fit into the {self.positions} positions of "
                f"{self.name}: show fewer examples or passages, or leave the task out"
            )


class NoRoom(UserError):
    """A prompt that is too long for a model."""


def batches(order: Sequence[int], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Items in their order, as many together as padded to the longest have `TOKENS` tokens or fewer."""
    batch: list[int] = []
    longest = 0
    for item in order:
        longest = max(longest, lengths[item])
        if batch and longest * (len(batch) + 1) > TOKENS:
            yield batch
            batch, longest = [], lengths[item]
        batch.append(item)
    if batch:
        yield batch


def check_path(path: str, command: str = "evaluate") -> None:
    """Refuses what is no causal language model, before any weights are read.

    Raises:
        UserError: with the reason.
    """
    problem = parent_problem("directory", path, ("pretrain", "sft", "ppo"))
    if problem:
        raise UserError(problem.replace("model.directory:", f"{command}:", 1))
    for name in saved_config(path, command, local_files_only=True).architectures or ():
        if name.endswith(("ForSequenceClassification", "ForTokenClassification")):
            raise UserError(
                f"{command}: {path} is a reward model or a critic ({name}), which writes nothing: give the "
                "language model, such as an SFT's or PPO's export"
            )


def tokenizer_of(path: str, command: str = "evaluate") -> Any:
    """The tokenizer of a model, or why it has none in one line."""
    try:
        return load_tokenizer(path)
    except USER_ERRORS as error:
        raise UserError(str(error).replace("data.tokenizer:", f"{command}:", 1)) from error


def digest(path: str) -> str:
    """The same for directories with the same weights, configuration and tokenizer, whatever their place."""
    folder = Path(path)
    if not folder.is_dir():
        from huggingface_hub import snapshot_download

        folder = Path(snapshot_download(path, local_files_only=True))
    total = hashlib.sha256()
    for file in sorted({file for pattern in KEPT for file in folder.glob(pattern)}):
        if file.name not in SAYS_NOTHING:
            with file.open("rb") as content:
                total.update(file.name.encode() + hashlib.file_digest(content, "sha256").digest())
    return total.hexdigest()
