"""`trivium chat DIR`: talk to a checkpoint, the reply appears as it is written."""

import argparse
from typing import Any

from datamodules.receipt import printable
from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.stop_tokens import stop_tokens
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.tokenizer import load_tokenizer, vocabulary_size
from datamodules.rendering.whole_text import encode_batch
from experiments.cli.user_errors import UserError
from experiments.commands.chat_documents import Reading, add_options, reading_of, sources
from modules.hf_load import parent_problem


def main(argv: list[str]) -> int:
    """Runs `trivium chat …`."""
    parser = argparse.ArgumentParser(
        prog="trivium chat",
        description="Talk to a checkpoint. One line is one turn; an empty line or Ctrl-D ends it.",
    )
    option = parser.add_argument
    option("directory", help="a Hugging Face directory, for example runs/quickstart/ppo/export")
    option("--prompt", help="answer this one prompt and stop")
    option("--prefix", default="", help="the given start of the reply")
    option("--max-new-tokens", type=int, default=128, help="limit of a reply, in tokens (128)")
    option("--temperature", type=float, default=0.7, help="0 takes the likeliest token every time (0.7)")
    option("--seed", type=int, default=0, help="of the sampling (0)")
    add_options(parser)
    options = parser.parse_args(argv)
    problem = parent_problem("directory", options.directory, ("pretrain", "sft", "ppo"))
    if problem:
        raise UserError(problem.removeprefix("model.").replace("directory:", "chat:", 1))
    reading = reading_of(options)
    import torch

    torch.manual_seed(options.seed)
    chat = Chat(options.directory, options.prefix, options.max_new_tokens, options.temperature, reading)
    if options.prompt is None:
        converse(chat)
    elif options.prompt.strip():
        chat.answer(options.prompt)
    return 0


def converse(chat: "Chat") -> None:
    """A conversation that is read from the terminal, until an empty line or the end of the input."""
    while True:
        try:
            line = input("you   > ")
        except EOFError:
            print()
            return
        if not line.strip():
            return
        print("model > ", end="", flush=True)
        chat.answer(line)


class Chat:
    """A model, and what it and the user have said so far. Every reply begins with `prefix`; a `temperature`
    of 0 takes the likeliest token. With a `reading` each question is asked by itself, beside its passages."""

    def __init__(
        self,
        directory: str,
        prefix: str,
        max_new_tokens: int,
        temperature: float,
        reading: Reading | None = None,
    ):
        from modules.hf_load import load_causal_lm
        from modules.training_data import own_stop_tokens

        self.tokenizer = load_tokenizer(directory)
        self.model = load_causal_lm(directory).float().eval()
        self.prefix, self.max_new_tokens, self.temperature = prefix, max_new_tokens, temperature
        own = own_stop_tokens(self.model, self.tokenizer)
        self.stops = list(dict.fromkeys([*stop_tokens(self.tokenizer), *own]))
        rows = self.model.config.get_text_config().vocab_size
        self.unused = list(range(vocabulary_size(self.tokenizer), rows)) or None
        self.reading = reading
        self.messages: list[dict[str, str]] = []

    def answer(self, line: str) -> None:
        """Streams the reply to a message to the terminal, and keeps both.

        Raises:
            UserError: the conversation has no room for a reply.
        """
        import torch
        from transformers import TextStreamer

        class Streamer(TextStreamer):
            def on_finalized_text(self, text: str, stream_end: bool = False) -> None:
                print(printable(text), end="\n" if stream_end else "", flush=True)

        asked = None if self.reading is None else self.reading.ask(line, self._room)
        if asked:
            self.messages = []
        self.messages.append({"role": "user", "content": asked.text if asked else line})
        ids = torch.tensor([prompt_ids(self.tokenizer, self.messages, self.prefix)])
        positions = self.model.config.max_position_embeddings
        if ids.shape[1] >= positions:
            raise UserError(f"chat: the conversation fills the model's {positions} positions")
        print(self.prefix, end="", flush=True)
        generate: Any = self.model.generate
        output = generate(
            ids,
            attention_mask=torch.ones_like(ids),
            max_new_tokens=min(self.max_new_tokens, positions - ids.shape[1]),
            do_sample=self.temperature > 0,
            temperature=self.temperature or None,
            top_k=None,  # transformers would take the 50 likeliest
            eos_token_id=self.stops,
            suppress_tokens=self.unused,
            pad_token_id=self.tokenizer.pad_token_id,
            streamer=Streamer(self.tokenizer, skip_prompt=True, skip_special_tokens=True),
        )
        reply = self.tokenizer.decode(output[0, ids.shape[1] :], skip_special_tokens=True)
        self.messages.append({"role": "assistant", "content": self.prefix + reply})
        if asked:
            print(*sources(asked.hits, reply), sep="\n")

    def _room(self, text: str) -> int:
        """Positions that are left for more when `text` is the only message and the reply has its tokens."""
        ids = prompt_ids(self.tokenizer, [{"role": "user", "content": text}], self.prefix)
        return self.model.config.max_position_embeddings - len(ids) - self.max_new_tokens


def prompt_ids(tokenizer: Any, messages: list[dict[str, str]], prefix: str) -> list[int]:
    """A conversation through the tokenizer's chat template; its last message alone in the instruction format
    where the tokenizer has none."""
    if tokenizer.chat_template:
        return row_ids(tokenizer, {"messages": messages, "reply_prefix": prefix})
    return row_ids(tokenizer, {"instruction": messages[-1]["content"], "reply_prefix": prefix})


def row_ids(tokenizer: Any, row: dict[str, Any]) -> list[int]:
    """A row's prompt through the tokenizer's chat template, in the instruction format where it has none."""
    template = ChatTemplate() if tokenizer.chat_template else InstructionTemplate()
    return encode_batch(tokenizer, [template.prompt(row, 0, tokenizer)])[0].ids.tolist()
