"""`trivium serve DIR…`: models for any client of OpenAI's API, and a page to talk to them."""

import argparse
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError, tell
from experiments.commands.chat_documents import add_options as add_document_options
from experiments.commands.chat_documents import reading_of
from experiments.web.access import INTERRUPTED, access_of, add_options

EXAMPLE = """for example:
  trivium serve runs/quickstart/sft/export runs/quickstart/ppo/export runs/quickstart/reward/export
  curl http://127.0.0.1:8000/v1/models
"""
DEFAULT_TOKENS, TOGETHER, WAITING = 512, 32, 64


def main(argv: list[str]) -> int:
    """Runs `trivium serve …`."""
    options = parser().parse_args(argv)
    for name in ("max_new_tokens", "together"):
        if getattr(options, name) < 1:
            raise UserError(f"--{name.replace('_', '-')} is {getattr(options, name)}: give 1 or more")
    if options.waiting < 0:
        raise UserError(f"--waiting is {options.waiting}: give 0 or more")
    if options.save and Path(options.save).is_dir():
        raise UserError(f"--save {options.save} is a folder: give a file of JSON lines")
    if options.save and not Path(options.save).resolve().parent.is_dir():
        raise UserError(f"--save {options.save}: its folder does not exist: make it, or give another file")
    access = access_of(options)
    try:
        from experiments.web.server import listen, serve
    except ImportError as error:
        raise UserError(f"serve needs {error.name}: pip install 'trivium[web]'") from error

    from experiments.web.hosted import check, load

    models, scorers = check(options.directories, options.reference)
    with listen(access) as taken:  # a port that is taken is told before anything is loaded
        try:
            reading = reading_of(options)
            hosted = load(models, scorers, options.reference)
        except KeyboardInterrupt:
            tell("interrupted")
            return INTERRUPTED
        tell(f"{', '.join(hosted.models)} loaded" + (f", scored by {', '.join(scorers)}" if scorers else ""))
        return serve(application(hosted, access, options, reading), access, taken)


def parser() -> argparse.ArgumentParser:
    """The command's options."""
    parser = ArgumentParser(
        prog="trivium serve",
        description="Serve models to any client of OpenAI's API, and a page to talk to them.",
        epilog=EXAMPLE,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option(
        "directories",
        nargs="+",
        metavar="DIR",
        help="Hugging Face directories, NAME=DIR gives a name; a reward model scores replies",
    )
    option("--reference", metavar="DIR", help="the model that the KL of each token is measured to")
    option(
        "--max-new-tokens",
        type=int,
        default=DEFAULT_TOKENS,
        help=f"of a reply, unless asked for others ({DEFAULT_TOKENS})",
    )
    option(
        "--together",
        type=int,
        default=TOGETHER,
        help=f"replies that are written at the same time ({TOGETHER})",
    )
    option(
        "--waiting",
        type=int,
        default=WAITING,
        help=f"replies that may wait; others are answered 429 ({WAITING})",
    )
    option("--save", metavar="FILE", help="where the page saves conversations, as rows for InstructionData")
    add_document_options(parser)
    add_options(parser)
    return parser


def application(hosted: Any, access: Any, options: argparse.Namespace, reading: Any = None) -> Any:
    """The web application of models that are loaded."""
    from experiments.chat.engine import Engine
    from experiments.chat.thread import EngineThread
    from experiments.web.chat_api import ChatApi
    from experiments.web.completions import Completions
    from experiments.web.server import create_app

    engine = EngineThread(Engine(options.together, options.waiting))

    @asynccontextmanager
    async def lifespan(app: Any) -> Any:
        with engine:
            yield

    app = create_app(access, lifespan)
    completions = Completions(hosted.models, engine, options.max_new_tokens)
    completions.add_routes(app)
    ChatApi(hosted, completions, reading, options.save).add_routes(app, options.max_new_tokens)
    return app
