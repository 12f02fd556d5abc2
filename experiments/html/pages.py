"""Pages from Jinja templates: all text in them is escaped, and its control characters are made visible."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template
from rich.cells import cell_len

from experiments.html.charts import number, visible

LINES, COLUMNS = 16, 60  # of a text that is shown whole; a wide character fills two columns


def page_template(file: Path, *folders: Path, **functions: Any) -> Template:
    """The template of a page, which may call `functions`, as functions or as filters, beside `number` and
    `is_long`, and include `page.css`, `text.html.j2` and what is in `folders`."""
    environment = Environment(
        loader=FileSystemLoader([file.parent, *folders, Path(__file__).parent]),
        autoescape=True,
        finalize=lambda value: "–" if value is None else visible(value) if isinstance(value, str) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, "is_long": is_long, **functions}
    environment.globals |= functions
    return environment.get_template(file.name)


def is_long(text: str) -> bool:
    """Whether a text would push what comes after it off the screen: it fills more than 16 lines."""
    if len(text) > LINES * COLUMNS:
        return True
    return sum(1 + max(cell_len(line) - 1, 0) // COLUMNS for line in text.splitlines()) > LINES


def finite(value: Any) -> Any:
    """The same data with None for each number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
