"""Pages from Jinja templates: all text in them is escaped, and its control characters are made visible."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from jinja2 import Environment, FileSystemLoader, StrictUndefined, Template

from experiments.html.charts import number, visible


def page_template(file: Path, *folders: Path, **functions: Any) -> Template:
    """The template of a page, which may call `functions`, as functions or as filters, beside `number`, and
    include `page.css` and what is in `folders`."""
    environment = Environment(
        loader=FileSystemLoader([file.parent, *folders, Path(__file__).parent]),
        autoescape=True,
        finalize=lambda value: "–" if value is None else visible(value) if isinstance(value, str) else value,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"number": number, **functions}
    environment.globals |= functions
    return environment.get_template(file.name)


def finite(value: Any) -> Any:
    """The same data with None for each number that JSON cannot hold."""
    if isinstance(value, Mapping):
        return {str(key): finite(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [finite(item) for item in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value
