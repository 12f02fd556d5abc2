"""The documentation as a site: every command of every page is accepted, the book says the same in both
languages, options and metrics that pages name are there, and the site is built without a dead link."""

import csv
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

import datamodules
import modules
from experiments.cli.parser import ParseOnly, parse
from experiments.cli.program import main
from experiments.docs import site

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "experiments" / "docs"
BOOK = DOCS / "book"
CHAPTERS = sorted(
    page.name for page in BOOK.glob("*.md") if not page.name.endswith(".zh.md") and page.stem != "index"
)
PAGES = [ROOT / "README.md", *sorted(DOCS.rglob("*.md"))]


def commands(page: Path) -> list[str]:
    """The lines of a page's blocks that call the program, without remarks."""
    blocks = re.findall(
        r"^```(?:sh)?\n(.*?)^```$", page.read_text(encoding="utf-8"), re.MULTILINE | re.DOTALL
    )
    lines = [line for block in blocks for line in block.splitlines() if line.startswith("trivium ")]
    return [line.split("   #")[0].split("  #")[0].strip() for line in lines]


LINES = [
    pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in dict.fromkeys(commands(page))
]


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_every_page_is_accepted(line, request, monkeypatch):
    monkeypatch.chdir(ROOT)
    name, *argv = shlex.split(line.partition(" > ")[0])[1:]  # the shell takes what follows
    if name in ("fit", "validate", "test", "predict"):
        parse([name, *argv], ParseOnly)
    elif [name, *argv[:1]] == ["data", "receipt"]:  # its overrides are the stage's
        parse(["fit", *argv[1:]], ParseOnly)
    elif name == "--help":
        assert main([name]) == 0
    else:
        parsed = request.getfixturevalue("only_parse")
        with pytest.raises(parsed):
            main([name, *argv])


@pytest.mark.parametrize("name", CHAPTERS)
def test_a_chapter_has_command_picture_place_and_something_to_try_in_both_languages(name):
    pages = [BOOK / name, BOOK / name.replace(".md", ".zh.md")]
    english, chinese = (page.read_text(encoding="utf-8") for page in pages)
    assert commands(pages[0]) == commands(pages[1]) != []
    pictures, targets = r"!\[[^\]]+\]\(([^)]+\.png)\)", r"(?<!!)\[(?:`(\w+)`)?[^\]]*\]\(([^)]+)\)"
    assert re.findall(pictures, english) == re.findall(pictures, chinese) != []
    assert re.findall(targets, english) == re.findall(targets, chinese)
    assert any(named for named, _ in re.findall(targets, english))
    assert english.count("\n## ") == chinese.count("\n## ") == 4
    assert len(re.findall(r"[\u4e00-\u9fff]", chinese)) > 200


def test_the_book_lists_its_chapters_in_the_order_of_the_site():
    order = re.findall(r"book/([\w-]+\.md)", (DOCS / "mkdocs.yml").read_text())
    for index in ("index.md", "index.zh.md"):
        assert [
            "index.md",
            *re.findall(r"\]\(([\w-]+\.md)\)", (BOOK / index).read_text(encoding="utf-8")),
        ] == order
    assert sorted(order) == sorted(["index.md", *CHAPTERS])


def test_the_options_of_coming_from_are_there():
    text = (DOCS / "coming-from.md").read_text()
    for prefix, library in (("model", modules), ("data", datamodules)):
        kinds = [kind for name in library.__all__ if inspect.isclass(kind := getattr(library, name))]
        known = {
            option
            for kind in kinds
            for base in kind.__mro__
            for option in inspect.signature(base.__init__).parameters
        }
        named = set(re.findall(rf"`{prefix}\.(\w+)", text))
        assert len(named) > 5
        assert named <= known


def test_every_metric_that_a_stage_logs_has_its_line(tiny_stages):
    table = re.findall(r"^\| (`.*?) \|", (DOCS / "reference" / "metrics.md").read_text(), re.MULTILINE)
    patterns = [re.escape(name) for cell in table for name in re.findall("`([^`]+)`", cell)]
    known = re.compile(
        "|".join(p.replace("NAME", ".+").replace("gap_from_G", "gap_from_.+") for p in patterns)
    )
    logged = set()
    for stage in ("pretrain", "sft", "reward", "ppo"):
        file = next((tiny_stages.out / stage).glob("metrics/version_0/metrics.csv"))
        with file.open() as lines:
            logged |= set(next(csv.reader(lines))) - {"epoch", "step"}
    assert len(logged) > 30
    assert [name for name in sorted(logged) if not known.fullmatch(name)] == []


def test_the_site_is_built_strictly_in_both_languages(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "experiments.docs.site", str(tmp_path / "site")],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0, run.stderr[-3000:]
    for name in CHAPTERS:
        for place in ("book", "zh/book"):
            assert (tmp_path / "site" / place / name.replace(".md", ".html")).is_file()
    page = (tmp_path / "site" / "book" / "ppo.html").read_text(encoding="utf-8")
    (line,) = re.findall(r'href="\.\./source/modules/rl-py\.html#line-(\d+)"><code>gae', page)
    assert (ROOT / "modules" / "rl.py").read_text().splitlines()[int(line) - 1].startswith("def gae(")
    for file in (tmp_path / "site").rglob("*.html"):  # nothing is fetched from other hosts
        assert (
            re.findall(r'<(?:script|link|img)[^>]*(?:src|href)="https?:', file.read_text(encoding="utf-8"))
            == []
        )


def test_a_page_of_code_scrolls_in_its_own_box_and_its_line_numbers_stand_apart():
    page = site.source_page("modules/rl.py")
    assert "<pre><span></span><code>" in page  # the theme scrolls <code>: of a bare <pre> the page gets wide
    assert '<span class="linenos">  1  </span><span' in page


@pytest.mark.parametrize(
    ("link", "told"),
    [
        ("[x](nowhere.md)", "there is no nowhere.md"),
        ("[`nothing` there](../../code.py)", "code.py has no `nothing`"),
    ],
)
def test_a_link_that_leads_nowhere_ends_the_build(tmp_path, monkeypatch, link, told):
    docs = tmp_path / "experiments" / "docs"
    docs.mkdir(parents=True)
    (tmp_path / "README.md").write_text("# First\n")
    (tmp_path / "code.py").write_text("def something():\n    pass\n")
    (docs / "page.md").write_text(f"# Page\n\n{link}\n")
    monkeypatch.setattr(site, "ROOT", tmp_path)
    with pytest.raises(site.DeadLink, match=told):
        site.lay_out(tmp_path / "out")
