"""A page as one file: HTML from a template, with its style, its script and its words inside, and the policy
that lets a browser run nothing else."""

import base64
import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from markupsafe import Markup
from starlette.responses import HTMLResponse

from experiments.html.pages import page_template

HERE = Path(__file__).parent
LANGUAGES = ("en", "zh")
POLICY = (
    "default-src 'none'; script-src 'sha256-{script}'; style-src 'sha256-{style}'; connect-src 'self'; "
    "img-src 'self' data:; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)


class Page:
    """A page that `NAME.html.j2` lays out, which extends `base.html.j2`, with the files `NAME.css`, `NAME.js`
    and `NAME.yaml` (its words: key → language → text) beside it.

    Args:
        name: of its files.
        data: what the script finds as `DATA`, as JSON.
        folder: where the files are.
    """

    def __init__(self, name: str, data: Mapping[str, Any] | None = None, folder: Path = HERE):
        words = read_words(HERE / "base.yaml") | read_words(folder / f"{name}.yaml")
        looks = HERE.parent / "html" / "page.css"
        style = "\n".join(
            file.read_text("utf-8") for file in (looks, HERE / "base.css", folder / f"{name}.css")
        )
        script = "\n".join(file.read_text("utf-8") for file in (HERE / "base.js", folder / f"{name}.js"))
        assert "</" not in script, "the text would end the script"
        template = page_template(folder / f"{name}.html.j2", HERE)
        self.html: str = template.render(
            words=words,
            tables=_json({"words": words, "data": data or {}}),
            style=Markup(style),
            script=Markup(script),
        )
        self.policy = POLICY.format(script=_digest(script), style=_digest(style))

    def response(self) -> HTMLResponse:
        """The page as an answer."""
        return HTMLResponse(self.html, headers={"content-security-policy": self.policy})


def read_words(file: Path) -> dict[str, dict[str, str]]:
    """A page's words; every one is in every language."""
    words = yaml.safe_load(file.read_text("utf-8"))
    for key, texts in words.items():
        assert tuple(texts) == LANGUAGES, f"{file}: {key} is in {list(texts)}"
    return words


def _json(data: Any) -> Markup:
    """JSON that may stand in a `<script>` of data: no text in it can end that."""
    text = json.dumps(data, ensure_ascii=False)
    return Markup(text.replace("<", "\\u003c").replace("\u2028", "\\u2028").replace("\u2029", "\\u2029"))


def _digest(text: str) -> str:
    return base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
