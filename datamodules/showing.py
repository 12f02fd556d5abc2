"""How an object shows itself: what rich prints in a terminal is tables and coloured tokens in a notebook."""

import io
import sys

from markupsafe import Markup, escape
from rich.console import Console, Group, RenderableType
from rich.table import Table
from rich.text import Text

WIDTH = 110  # characters of a line of text
CELL = Markup('<{0} style="text-align:{1};padding:1px 9px">{2}</{0}>')
WRAP = "white-space:pre-wrap;word-break:normal;overflow-wrap:anywhere"  # notebooks would break within words
PLAIN = Markup(f'<pre style="{WRAP};margin:4px 0">{{}}</pre>')
TABLE = Markup('<table style="margin:4px 0"><caption style="text-align:left">{}</caption>{}</table>')


class Shown:
    """Shows what its `__rich__` gives: as text, and in a notebook as HTML in which all text is escaped."""

    def __rich__(self) -> RenderableType:
        raise NotImplementedError

    def __repr__(self) -> str:
        return as_text(self)

    def _repr_html_(self) -> str:
        return as_html(self.__rich__())


def as_text(shown: RenderableType) -> str:
    """What is printed of it; with colours where that is a terminal."""
    coloured = sys.stdout.isatty()
    console = Console(file=io.StringIO(), width=WIDTH, force_terminal=coloured, force_jupyter=False)
    with console.capture() as capture:
        console.print(shown)
    return capture.get().rstrip("\n")


def as_html(shown: RenderableType) -> Markup:
    """Tables, lines and groups of them as HTML; lines keep their colours."""
    if isinstance(shown, Group):
        return Markup("").join(map(as_html, shown.renderables))
    if isinstance(shown, Table):
        columns = shown.columns
        head = [CELL.format("th", column.justify, _line(column.header)) for column in columns]
        rows = zip(*(column.cells for column in columns), strict=True)
        cells = [
            [CELL.format("td", c.justify, _line(cell)) for c, cell in zip(columns, row, strict=True)]
            for row in rows
        ]
        lines = [Markup("<tr>{}</tr>").format(Markup("").join(line)) for line in (head, *cells)]
        return TABLE.format(_line(shown.title or ""), Markup("").join(lines))
    return PLAIN.format(_line(shown))


def _line(shown: object) -> Markup:
    if not isinstance(shown, Text):
        return escape(str(shown))
    parts = shown.render(Console(file=io.StringIO(), force_jupyter=False))
    return Markup("").join(
        Markup('<span style="{}">{}</span>').format(part.style.get_html_style(), part.text)
        if part.style
        else escape(part.text)
        for part in parts
    )
