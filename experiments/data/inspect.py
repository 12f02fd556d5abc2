"""`trivium data inspect FILE`: one page about a file nobody has seen, that needs nothing else and no network.

Columns and their types, rows that cannot be read, lengths, languages, duplicates, the most repeated rows and
samples. Words and layout are in `inspect.html.j2`; pictures and looks are those of the quickstart's report.
"""

import argparse
import os
from pathlib import Path

from rich.console import Console
from rich.text import Text as Cell

from experiments.cli.user_errors import UserError
from experiments.data.survey import Survey, share, survey
from experiments.data.texts import needed


def main(argv: list[str]) -> int:
    """Runs `trivium data inspect …`."""
    parser = argparse.ArgumentParser(
        prog="trivium data inspect",
        description="One page about a file: columns, bad rows, lengths, languages, duplicates, samples.",
    )
    parser.add_argument("file", metavar="FILE", help="JSON lines, Parquet, Arrow, text, or a saved folder")
    parser.add_argument(
        "--output", metavar="page.html", help="the page (default: FILE's name with .html, here)"
    )
    parser.add_argument(
        "--tokenizer", metavar="DIR", help="also count tokens, with the tokenizer of this folder"
    )
    parser.add_argument(
        "--field", help="the column that holds the text; by default all that hold what a row says"
    )
    parser.add_argument("--seed", type=int, default=0, help="of the random sample rows (default 0)")
    options = parser.parse_args(argv)
    output = Path(options.output or f"{Path(options.file).resolve().name}.html")
    if output.is_dir():
        raise UserError(f"--output {output} is a folder: give a file")
    if not output.parent.is_dir():
        raise UserError(f"--output {output}: there is no folder {output.parent}")
    if output.exists() and Path(options.file).exists() and output.samefile(options.file):
        raise UserError(f"--output {output} is the file that is read: give another name")
    found = survey(options.file, options.field, options.tokenizer, options.seed)
    unfinished = output.with_name(output.name + ".part")
    unfinished.write_text(render(found), encoding="utf-8", errors="backslashreplace")
    os.replace(unfinished, output)
    Console(soft_wrap=True).print(Cell(f"{summary(found)}\nwrote {output}"))
    return 0


def summary(found: Survey) -> str:
    """The file in a line, for the terminal."""
    texts = f"with text {found.texts:,}"
    if found.texts:
        texts += (
            f"; duplicates: exact {share(found.exact, found.texts)}, near {share(found.near, found.texts)}"
        )
    return f"{found.file}: rows {found.rows:,}, cannot be read {found.bad:,}; {texts}"


def render(found: Survey) -> str:
    """The page. Every text that is put into it is escaped, and its control characters made visible."""
    needed("matplotlib")

    from jinja2 import Environment, FileSystemLoader, StrictUndefined

    from experiments.data.pictures import Pictures
    from experiments.html.charts import number, visible

    environment = Environment(
        loader=FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        finalize=lambda value: visible(value) if isinstance(value, str) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "share": share}
    return environment.get_template("inspect.html.j2").render(found=found, pictures=Pictures())
