"""`trivium data inspect FILE`: one page about a file nobody has seen, that needs nothing else and no network.

Columns and their types, rows that cannot be read, lengths, languages, duplicates, the most repeated rows and
samples. Words and layout are in `inspect.html.j2`; pictures and looks are those of the quickstart's report.
"""

from pathlib import Path

from rich.console import Console
from rich.text import Text as Cell

from experiments.atomic import write_text
from experiments.cli.arguments import ArgumentParser
from experiments.cli.reading_options import add_reading_options, columns_of
from experiments.data.output import check_output
from experiments.data.survey import Survey, share, survey
from experiments.data.texts import needed


def main(argv: list[str]) -> int:
    """Runs `trivium data inspect …`."""
    parser = ArgumentParser(
        prog="trivium data inspect",
        description="One page about a file: columns, bad rows, lengths, languages, duplicates, samples.",
    )
    option = parser.add_argument
    option("file", metavar="FILE", help="JSON lines, Parquet, Arrow, text, or a saved folder")
    option("--output", metavar="page.html", help="the page (default: FILE's name with .html, here)")
    option("--tokenizer", metavar="DIR", help="also count tokens, with the tokenizer of this folder")
    option("--field", help="the column that holds the text; by default all that hold what a row says")
    option("--seed", type=int, default=0, help="of the random sample rows (default 0)")
    add_reading_options(parser)
    options = parser.parse_args(argv)
    output = Path(options.output or f"{Path(options.file).resolve().name}.html")
    check_output(output, [options.file])
    result = survey(
        options.file,
        field=options.field,
        tokenizer=options.tokenizer,
        seed=options.seed,
        columns=columns_of(options.columns),
        encoding=options.encoding,
    )
    write_text(output, render(result))
    Console(soft_wrap=True).print(Cell(f"{summary(result)}\nwrote {output}"))
    return 0


def summary(result: Survey) -> str:
    """The file in a line, for the terminal."""
    line = f"{result.file}: rows {result.rows:,}, cannot be read {result.bad:,}; with text {result.texts:,}"
    if not result.texts:
        return line
    exact, near = share(result.exact, result.texts), share(result.near, result.texts)
    return f"{line}; duplicates: exact {exact}, near {near}"


def render(result: Survey) -> str:
    """The page. Every text that is put into it is escaped, and its control characters made visible."""
    needed("matplotlib")

    from experiments.data.pictures import Pictures
    from experiments.html.pages import page_template

    template = page_template(Path(__file__).with_name("inspect.html.j2"), share=share)
    return template.render(survey=result, pictures=Pictures())
