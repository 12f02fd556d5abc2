"""`trivium init DIR --data FILE`: looks at a file and writes the YAML of the stage that fits it, with rows to
train on, rows held out and, for documents, a tokenizer."""

import shlex
from pathlib import Path

from experiments.cli.arguments import ArgumentParser
from experiments.cli.reading_options import add_reading_options, columns_of, told_as_options


def main(argv: list[str]) -> int:
    """Runs `trivium init …`."""
    parser = ArgumentParser(
        prog="trivium init",
        description="Looks at a file of any layout that Trivium knows and writes DIR/STAGE.yaml for the "
        "stage that fits it: documents pretrain, instructions and conversations sft, ranked replies reward, "
        "prompts ppo. Lengths follow from the tokens counted; a twentieth of the rows is held out.",
        epilog="Example: trivium init runs/mine --data chats.json --model runs/quickstart/pretrain/export",
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("folder", metavar="DIR", help="the folder to write to; it is made")
    option("--data", nargs="+", required=True, metavar="FILE", help="files, globs, folders, hub names")
    option("--val", nargs="+", default=[], metavar="FILE", help="files to validate on (rows held out)")
    option("--model", metavar="DIR", help="the Hugging Face directory to start from")
    option("--actor", metavar="DIR", help="of ppo: the policy's start, usually SFT's export")
    option("--reward", metavar="DIR", help="of ppo: the reward model's export")
    option("--stage", choices=("pretrain", "sft", "reward", "ppo"), help="where the data allow several")
    add_reading_options(parser, encoding="UTF-8, or what it seems to be")
    option("--overwrite", action="store_true", help="replace what an earlier init wrote")
    options = parser.parse_args(argv)

    from experiments.init.beginning import Beginning
    from experiments.init.stage import Models

    beginning = Beginning(
        folder=Path(options.folder),
        data=options.data,
        val=options.val,
        models=Models(options.model, options.actor, options.reward),
        columns=columns_of(options.columns),
        encoding=options.encoding,
    )
    with told_as_options():
        file = beginning.write(options.stage, options.overwrite)
    print(f"to train it:\n  trivium fit --config {shlex.quote(str(file))}")
    return 0
