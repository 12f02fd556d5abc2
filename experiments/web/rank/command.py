"""`trivium rank`: samples replies, serves the page on which people rank them, and keeps what they say."""

import argparse
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from experiments.cli.arguments import ArgumentParser
from experiments.cli.quiet import hush
from experiments.cli.user_errors import UserError, tell

OUTPUT, K, TOKENS = "ranks.jsonl", 4, 128
EPILOG = """\
The file of answers is what `datamodules.PreferenceData` trains a reward model on, beside who ranked, when,
and what was shown. Answers that prefer nothing (cannot say, flagged, skipped, all tied) lie in a file beside
it, NAME.left-out.jsonl. Each is on the disk before the next prompt is shown; the same command goes on.

  trivium rank --prompts prompts.jsonl --models runs/quickstart/sft/export runs/quickstart/ppo/export
  trivium rank --replies replies.jsonl --overlap 2 --output ranks.jsonl --host 0.0.0.0
  trivium rank report ranks.jsonl"""


def main(argv: list[str]) -> int:
    """Runs `trivium rank …` and `trivium rank report …`."""
    if argv[:1] == ["report"]:
        from experiments.web.rank.report_command import main as report

        return report(argv[1:])
    from experiments.web.access import INTERRUPTED, access_of, add_options

    commands = parser()
    add_options(commands)
    options = commands.parse_args(argv)
    try:
        import fastapi  # noqa: F401
        import uvicorn  # noqa: F401
    except ImportError as error:
        raise UserError(f"rank needs the package {error.name}: install trivium[web]") from error
    access = access_of(options)
    check(options)
    try:
        return _serve(options, access)
    except KeyboardInterrupt:  # while it loads or samples; a server that is interrupted ends by itself
        tell("interrupted: what was sampled is kept; the same command goes on")
        return INTERRUPTED


def parser() -> argparse.ArgumentParser:
    """The command's options, the server's apart."""
    parser = ArgumentParser(
        prog="trivium rank",
        usage="%(prog)s (--prompts FILE --models DIR... | --replies FILE) [options]\n"
        "       %(prog)s report FILE [options]",
        description="Shows people prompts and replies, blind, and keeps how they rank them.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    option = parser.add_argument
    option(
        "--prompts", metavar="FILE", help="rows with `instruction` or `messages`, and maybe `reply_prefix`"
    )
    directories = "Hugging Face directories that reply, in turn; a name before each if wanted: NAME=DIR"
    option("--models", nargs="+", default=[], metavar="DIR", help=directories)
    option("--replies", metavar="FILE", help="rows with `replies` (and maybe `models`), in place of models")
    option("--output", default=OUTPUT, metavar="FILE", help=f"file of answers, JSON lines ({OUTPUT})")
    option("--overlap", type=int, default=1, metavar="N", help="people who see each prompt (1)")
    option("--seed", type=int, default=0, help="of the sampling and of the order on the page (0)")
    sampled = parser.add_argument_group("sampling").add_argument
    sampled("--k", type=int, help=f"replies to a prompt ({K})")
    sampled("--temperature", type=float, help="0 takes the likeliest token every time (1)")
    sampled("--max-new-tokens", type=int, help=f"limit of a reply, in tokens ({TOKENS})")
    sampled("--prefix", help="the given start of every reply")
    return parser


def check(options: argparse.Namespace) -> None:
    """Refuses what cannot be, and fills in what was left out.

    Raises:
        UserError: the first problem.
    """
    from experiments.web.rank.item import FEWEST, MOST

    if (options.prompts is None) == (options.replies is None):
        raise UserError("rank: give --prompts FILE with --models DIR, or --replies FILE")
    if not Path(options.output).name.endswith(".jsonl"):
        raise UserError(f"--output is {options.output!r}: give a file that ends in .jsonl, as {OUTPUT}")
    if options.overlap < 1:
        raise UserError(f"--overlap is {options.overlap}: give 1 or more people a prompt")
    sampled = {"models": [], "k": K, "temperature": 1.0, "max_new_tokens": TOKENS, "prefix": ""}
    if options.replies is not None:
        given = [name for name in sampled if getattr(options, name) not in (None, [])]
        if given:
            raise UserError(
                f"--{given[0].replace('_', '-')} is of sampling: --replies has its replies already"
            )
        return
    if not options.models:
        raise UserError("--models: name one or more Hugging Face directories that reply to --prompts")
    for name, default in sampled.items():
        if getattr(options, name) is None:
            setattr(options, name, default)
    if not FEWEST <= options.k <= MOST:
        raise UserError(f"--k is {options.k}: give {FEWEST} to {MOST} replies to a prompt")
    if not 0 <= options.temperature < float("inf"):
        raise UserError(f"--temperature is {options.temperature}: give 0 or more")
    if options.temperature == 0 and options.k > len(options.models):
        raise UserError(
            f"--temperature is 0, so a model gives one reply only: --k is {options.k}, give more models"
        )
    if options.max_new_tokens < 1:
        raise UserError(f"--max-new-tokens is {options.max_new_tokens}: give 1 or more")


def _serve(options: argparse.Namespace, access: Any) -> int:
    from experiments.web.rank.app import rank_app
    from experiments.web.rank.ledger import Ledger
    from experiments.web.rank.session import Session, unknown
    from experiments.web.server import listen, serve

    socket = listen(access)  # a port that is taken is told before anything is sampled
    with socket:
        hush()
        answers = Ledger(Path(options.output))
        try:
            for line in answers.healed:
                tell(line)
            items = items_of(options)
            others = unknown(items, answers)
            if others:
                raise UserError(
                    f"--output: {others} of {len(answers.lines)} answers in {options.output} are to other "
                    "prompts or replies: give another file, or the prompts and replies that it has"
                )
            print(f"{len(items)} prompts, {len(answers.lines)} answers in {options.output}", flush=True)
            session = Session(items, answers, options.overlap, options.seed)
            return serve(rank_app(session, access), access, socket)
        finally:
            answers.close()


def items_of(options: argparse.Namespace) -> Sequence[Any]:
    """What people will rank, as the options ask for it."""
    from experiments.web.rank.prompts import read_prompts, read_replies

    if options.replies is not None:
        items: Sequence[Any] = read_replies(options.replies)
        return items
    from rich.console import Console
    from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

    from experiments.evaluation.command import named_models
    from experiments.evaluation.engine import check_path, tokenizer_of
    from experiments.web.rank.sampling import Sampling, renamed, sample

    prompts = read_prompts(options.prompts)
    try:
        models = named_models(options.models)
        for path in models.values():
            check_path(path)
            tokenizer_of(path)
    except UserError as error:
        raise renamed(error) from error
    how = Sampling(
        models, options.k, options.seed, options.temperature, options.max_new_tokens, options.prefix
    )
    file = Path(options.output).with_suffix(".replies.jsonl")
    columns = TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=Console(stderr=True), transient=True) as progress:
        bar = progress.add_task("sampling replies", total=len(prompts))
        items = sample(prompts, how, file, lambda count: progress.advance(bar, count))
    if not items:
        raise UserError(
            f"--models: all replies to a prompt are the same, in {file}: there is nothing to rank"
        )
    if len(items) < len(prompts):
        tell(f"{len(prompts) - len(items)} prompts are left out: all their replies are the same")
    return items
