"""`trivium chat DIR`: talk to a checkpoint, the reply appears as it is written."""

import argparse
from typing import Any

from datamodules.receipt import printable
from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.tokenizer import encode_batch, load_tokenizer
from experiments.cli.user_errors import UserError
from modules.hf_load import parent_problem


def main(argv: list[str]) -> int:
    """Runs `trivium chat …`."""
    parser = argparse.ArgumentParser(
        prog="trivium chat",
        description="Talk to a checkpoint. One line is one turn; an empty line or Ctrl-D ends it.",
    )
    parser.add_argument("directory", help="a Hugging Face directory, for example runs/quickstart/ppo/export")
    parser.add_argument("--prompt", help="answer this one prompt and stop")
    parser.add_argument("--prefix", default="", help="the given start of the reply")
    parser.add_argument("--max-new-tokens", type=int, default=128, help="limit of a reply, in tokens (128)")
    parser.add_argument(
        "--temperature", type=float, default=0.7, help="0 takes the likeliest token every time (0.7)"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the sampling (0)")
    options = parser.parse_args(argv)
    problem = parent_problem("directory", options.directory, ("pretrain", "sft", "ppo"))
    if problem:
        raise UserError(problem.removeprefix("model.").replace("directory:", "chat:", 1))
    chat(
        options.directory,
        options.prompt,
        options.prefix,
        options.max_new_tokens,
        options.temperature,
        options.seed,
    )
    return 0


def chat(
    directory: str, prompt: str | None, prefix: str, max_new_tokens: int, temperature: float, seed: int
) -> None:
    """Answers one prompt, or a conversation read from the terminal."""
    import torch

    from modules.hf_load import load_causal_lm

    torch.manual_seed(seed)
    tokenizer, model = load_tokenizer(directory), load_causal_lm(directory).float().eval()
    history: list[dict[str, str]] = []
    while True:
        try:
            line = prompt if prompt is not None else input("you   > ")
        except EOFError:
            print()
            return
        if not line.strip():
            return
        if prompt is None:
            print("model > ", end="", flush=True)
        history.append({"role": "user", "content": line})
        reply = answer(model, tokenizer, history, prefix, max_new_tokens, temperature)
        history.append({"role": "assistant", "content": reply})
        if prompt is not None:
            return


def answer(
    model: Any,
    tokenizer: Any,
    history: list[dict[str, str]],
    prefix: str,
    max_new_tokens: int,
    temperature: float,
) -> str:
    """Streams the reply to the last message to the terminal and returns it."""
    import torch
    from transformers import TextStreamer

    class Streamer(TextStreamer):
        def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
            print(printable(text), end="\n" if stream_end else "", flush=True)

    ids = torch.tensor([prompt_ids(tokenizer, history, prefix)])
    room = model.config.max_position_embeddings - ids.shape[1]
    if room < 1:
        raise UserError(
            f"chat: the conversation fills the model's {model.config.max_position_embeddings} positions"
        )
    print(prefix, end="", flush=True)
    output = model.generate(
        ids,
        attention_mask=torch.ones_like(ids),
        max_new_tokens=min(max_new_tokens, room),
        do_sample=temperature > 0,
        temperature=temperature or None,
        top_k=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        streamer=Streamer(tokenizer, skip_prompt=True, skip_special_tokens=True),
    )
    return prefix + tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)


def prompt_ids(tokenizer: Any, history: list[dict[str, str]], prefix: str) -> list[int]:
    """A conversation through the tokenizer's chat template; its last message alone in the instruction format
    where the tokenizer has none."""
    if tokenizer.chat_template:
        segments = ChatTemplate().prompt({"messages": history, "reply_prefix": prefix}, 0, tokenizer)
    else:
        row = {"instruction": history[-1]["content"], "reply_prefix": prefix}
        segments = InstructionTemplate().prompt(row, 0, tokenizer)
    return encode_batch(tokenizer, [segments])[0].ids.tolist()
