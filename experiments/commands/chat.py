"""`trivium chat DIR`: talk to a checkpoint, the reply appears as it is written."""

import argparse
import math

from datamodules.receipt import printable
from experiments.chat.engine import Settings, check_room, reply
from experiments.chat.prompts import prompt_ids
from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError
from experiments.commands.chat_documents import Reading, add_options, reading_of, sources
from experiments.evaluation.engine import Model, check_path


def main(argv: list[str]) -> int:
    """Runs `trivium chat …`."""
    parser = ArgumentParser(
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
    settings = settings_of(options)
    check_path(options.directory, "chat")
    reading = reading_of(options)
    chat = Chat(Model.load(options.directory, "chat", "chat"), settings, options.prefix, reading)
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


def settings_of(options: argparse.Namespace) -> Settings:
    """How a command line samples.

    Raises:
        UserError: a number that cannot be.
    """
    if options.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {options.max_new_tokens}: give 1 or more")
    if not 0 <= options.temperature < math.inf:
        raise UserError(f"--temperature is {options.temperature}: give 0 or more")
    return Settings(options.max_new_tokens, options.temperature, seed=options.seed)


class Chat:
    """A model, and what it and the user have said so far. Every reply begins with `prefix`. With a `reading`
    each question is asked by itself, beside its passages."""

    def __init__(self, model: Model, settings: Settings, prefix: str = "", reading: Reading | None = None):
        self.model, self.settings, self.prefix, self.reading = model, settings, prefix, reading
        self.messages: list[dict[str, str]] = []

    def answer(self, line: str) -> None:
        """Streams the reply to a message to the terminal, and keeps both.

        Raises:
            UserError: the conversation has no room for a reply.
        """
        asked = None if self.reading is None else self.reading.ask(line, self._room)
        if asked:
            self.messages = []
        self.messages.append({"role": "user", "content": asked.text if asked else line})
        ids = prompt_ids(self.model.tokenizer, self.messages, self.prefix)
        check_room(self.model, ids)
        print(self.prefix, end="", flush=True)
        written = ""
        for piece in reply(self.model, ids, self.settings):
            print(printable(piece.text), end="", flush=True)
            written += piece.text
        print()
        self.messages.append({"role": "assistant", "content": self.prefix + written})
        if asked:
            print(*sources(asked.hits, written), sep="\n")

    def _room(self, text: str) -> int:
        """Positions that are left for more when `text` is the only message and the reply has its tokens."""
        ids = prompt_ids(self.model.tokenizer, [{"role": "user", "content": text}], self.prefix)
        return self.model.room(len(ids)) - self.settings.max_tokens
