"""Builds the documentation as a site: `python -m experiments.docs.site [FOLDER]`, strictly: no dead link, no
missing picture.

README.md is its first page. What a page links to outside of the documentation, code and YAML, becomes a page
of numbered lines, and a link that names a function in backquotes leads to its line; a notebook becomes a page
with its outputs.
"""

import argparse
import logging
import os
import posixpath
import re
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory

ROOT = Path(__file__).resolve().parent.parent.parent
DOCS = Path("experiments/docs")
LINK = re.compile(r"(!?)\[((?:[^\[\]]|\[[^\]]*\])*)\]\(([^)\s#]+)(#[^)\s]*)?\)")
NAMED = re.compile(r"`(?:[\w.]+\.)?(\w+)(?:\(\))?`")
NOTEBOOK = ".ipynb"
LANGUAGES = {".py": "python", ".yaml": "yaml", ".sh": "bash", ".sbatch": "bash", ".toml": "toml"}

NOTEBOOK_STYLE = (
    ".cell pre { overflow-x: auto; padding: .8em; background: var(--md-code-bg-color); } "
    ".output_area { overflow-x: auto; } .output_area pre { background: none; }"
)


class DeadLink(Exception):
    """A page links to what is not there."""


def main(argv: list[str]) -> int:
    """Builds the site into a folder, `site` where none is given."""
    parser = argparse.ArgumentParser(prog="python -m experiments.docs.site", description=__doc__)
    parser.add_argument("folder", nargs="?", type=Path, default=ROOT / "site", help="of the site (site)")
    folder = parser.parse_args(argv).folder.absolute()
    from mkdocs.commands.build import build
    from mkdocs.config import load_config
    from mkdocs.exceptions import Abort

    logging.basicConfig(level=logging.WARNING, format="docs: %(message)s")
    with TemporaryDirectory() as pages:
        try:
            lay_out(Path(pages))
            os.chdir(ROOT)
            build(load_config(str(ROOT / DOCS / "mkdocs.yml"), docs_dir=pages, site_dir=str(folder)))
        except (Abort, DeadLink) as error:
            print(f"docs: {error}", file=sys.stderr)
            return 1
    print(folder / "index.html")
    return 0


def lay_out(folder: Path) -> None:
    """Writes the pages and pictures as mkdocs takes them.

    Raises:
        DeadLink: with page and link, for the first that leads nowhere.
    """
    sources: set[str] = set()
    for file in sorted((ROOT / DOCS).rglob("*")):
        place = folder / file.relative_to(ROOT / DOCS)
        if file.suffix == ".png":
            place.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(file, place)
        elif file.suffix == ".md":
            place.parent.mkdir(parents=True, exist_ok=True)
            place.write_text(
                relinked(file, file.relative_to(ROOT / DOCS).as_posix(), sources), encoding="utf-8"
            )
    (folder / "index.md").write_text(relinked(ROOT / "README.md", "index.md", sources), encoding="utf-8")
    for source in sources:
        place = folder / page_of(source)
        place.parent.mkdir(parents=True, exist_ok=True)
        page = notebook_page if source.endswith(NOTEBOOK) else source_page
        place.write_text(page(source), encoding="utf-8")


def relinked(file: Path, page: str, sources: set[str]) -> str:
    """The text of a page whose links lead where the site has what they mean; adds files that need a page."""

    def link(match: re.Match[str]) -> str:
        mark, text, target, anchor = match.groups()
        if re.match(r"\w+:", target):  # elsewhere
            return match[0]
        path = (file.parent / target).resolve()
        if not path.exists():
            raise DeadLink(f"{file.relative_to(ROOT)}: there is no {target}")
        if path.name.endswith(".zh.md"):  # the site switches languages by itself: no lone word
            return ""
        meant = path.relative_to(ROOT).as_posix()
        if path == ROOT / "README.md":
            meant = "index.md"
        elif path.is_relative_to(ROOT / DOCS) and path.suffix in (".md", ".png"):
            meant = path.relative_to(ROOT / DOCS).as_posix()
        elif path.suffix not in (*LANGUAGES, NOTEBOOK):
            return text  # a folder has no page
        else:
            sources.add(meant)
            anchor = "" if path.suffix == NOTEBOOK else _line(path, text)
            meant = page_of(meant)
        return f"{mark}[{text}]({posixpath.relpath(meant, posixpath.dirname(page) or '.')}{anchor or ''})"

    lines = file.read_text(encoding="utf-8").split("\n")
    return "\n".join(line if code else LINK.sub(link, line) for line, code in _with_code(lines))


def _with_code(lines: list[str]) -> Iterator[tuple[str, bool]]:
    """Lines, and whether they stand in a block of code."""
    inside = False
    for line in lines:
        fence = line.lstrip().startswith("```")
        yield line, inside or fence
        inside ^= fence


def _line(source: Path, text: str) -> str:
    """The anchor of what a link's text names.

    Raises:
        DeadLink: the file has nothing of that name.
    """
    named = NAMED.search(text)
    if named is None or "." in named[0].strip("`") and source.name in text:
        return ""
    lines = source.read_text(encoding="utf-8").splitlines()
    pattern = re.compile(rf"\s*(?:(?:async )?def|class) {named[1]}\b|{named[1]}\b.*[:=]")
    for number, line in enumerate(lines, 1):
        if pattern.match(line):
            return f"#line-{number}"
    raise DeadLink(f"{source.relative_to(ROOT)} has no {named[0]}, which a link to it names")


def page_of(source: str) -> str:
    """The page of a file; what stands between dots is a language to the translations."""
    return f"source/{source.replace('.', '-')}.md"


def source_page(source: str) -> str:
    """A file as a page of numbered lines, which the search leaves out."""
    from pygments import highlight
    from pygments.formatters import HtmlFormatter
    from pygments.lexers import get_lexer_by_name

    text = (ROOT / source).read_text(encoding="utf-8")
    lexer = get_lexer_by_name(LANGUAGES[Path(source).suffix])
    # in <code>, which the theme scrolls: a wide line of a bare <pre> makes the whole page as wide
    lines = highlight(text, lexer, HtmlFormatter(linenos="inline", lineanchors="line", wrapcode=True))
    lines = re.sub(r'(class="linenos">[^<]*)<', r"\1  <", lines)  # apart from the code
    return f"---\ntitle: {source}\nsearch:\n  exclude: true\n---\n\n# {source}\n\n{lines}\n"


def notebook_page(source: str) -> str:
    """A notebook as a page: its text, code and outputs, as it was last run."""
    from nbconvert import HTMLExporter

    exporter = HTMLExporter(
        template_name="basic",
        embed_images=True,
        exclude_input_prompt=True,
        exclude_output_prompt=True,
        exclude_anchor_links=True,
    )
    exporter.log.setLevel(logging.ERROR)  # it would ask for the pictures' descriptions, which are given here
    body, _ = exporter.from_filename(str(ROOT / source))
    body = body.replace("No description has been provided for this image", "What the cell draws")
    title = Path(source).stem.replace("_", " ").capitalize().replace("ppo", "PPO")
    return f"---\ntitle: {title}\n---\n\n<style>{NOTEBOOK_STYLE}</style>\n\n{body}"


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
