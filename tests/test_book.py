"""The documentation as a site: every command of every page is accepted, the book says the same in both
languages, options and metrics that pages name are there, and the site is built without a dead link."""

import csv
import importlib.util
import inspect
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

import datamodules
import modules
from experiments.cli.parser import ParseOnly, parse
from experiments.cli.program import COMMANDS, main
from experiments.data.program import COMMANDS as OF_DATA
from experiments.docs import site
from experiments.scaling.program import COMMANDS as OF_SCALING

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "experiments" / "docs"
BOOK = DOCS / "book"
NEEDED = ["--model.pretrained=x", "--data.train=x", "--data.tokenizer=x"]
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


STANDS_FOR = {"FILE": "pretrain", "KIND": "instructions", "N": "1", "CKPT": "last.ckpt"}
"""a word that a page puts in place of what a reader gives → something that may be given"""


def within(page: Path) -> list[str]:
    """The command lines in a page's sentences, with something given in place of what stands for it."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    lines = []
    for span in re.findall("`(trivium [^`]+)`", text):
        words = [STANDS_FOR.get(word.removesuffix("…"), word.removesuffix("…")) for word in span.split()]
        left_out = "--config pretrain" if words[1] == "fit" else "DIR"  # a … alone
        lines.append(" ".join(word or left_out for word in words))
    return lines


def is_a_name(line: str) -> bool:
    """Whether a line is no more than a command's name, as `trivium data retrieve`."""
    return re.fullmatch("trivium [a-z]+( [a-z]+)?", line) is not None


LINES = [
    pytest.param(line, id=f"{page.name}: {line}") for page in PAGES for line in dict.fromkeys(commands(page))
]
WITHIN = {page: within(page) for page in PAGES}


@pytest.mark.parametrize("line", LINES)
def test_every_command_of_every_page_is_accepted(line, request, monkeypatch):
    monkeypatch.chdir(ROOT)
    accept(line, request)


@pytest.mark.parametrize(
    "line", sorted({line for lines in WITHIN.values() for line in lines if not is_a_name(line)})
)
def test_every_command_within_a_sentence_is_accepted(line, request, monkeypatch):
    """One that ends with an option may leave its value out."""
    monkeypatch.chdir(ROOT)
    given = line.split()[-1]
    accept(line if given[:2] != "--" or given in ("--compare", "--help") else f"{line} pretrain", request)


def test_what_pages_name_without_options_is_there():
    subcommands = {"data": OF_DATA, "scaling": OF_SCALING, "rank": {"report"}}
    for page, lines in WITHIN.items():
        for _, name, *more in (line.split() for line in lines if is_a_name(line)):
            assert name in COMMANDS, page
            assert name not in subcommands or set(more) <= set(subcommands[name]), page
        text = page.read_text(encoding="utf-8")
        targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
        assert set(re.findall(r"`make ([a-z-]+)", text)) <= targets, page
        for module in re.findall(r"python -m (experiments[\w.]+)", text):
            assert importlib.util.find_spec(module), page


def accept(line, request):
    name, *argv = shlex.split(line.partition(" > ")[0])[1:]  # the shell takes what follows
    if name in ("fit", "validate", "test", "predict"):
        parse([name, *argv], ParseOnly)
    elif [name, *argv[:1]] == ["data", "receipt"]:  # its overrides are the stage's
        parse(["fit", *argv[1:]], ParseOnly)
    elif name == "--help":
        assert main([name]) == 0
    elif argv[-1:] == ["--help"]:
        with pytest.raises(SystemExit) as ended:
            main([name, *argv])
        assert ended.value.code == 0
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


def test_every_field_of_a_runs_yaml_has_its_line_with_its_default(tmp_path):
    page = (DOCS / "reference" / "yaml.md").read_text(encoding="utf-8")
    (block,) = re.findall(r"^```yaml\n(.*?)^```$", page, re.MULTILINE | re.DOTALL)
    (tmp_path / "mine.yaml").write_text(block)
    rows = [
        [cell.strip() for cell in row.strip("|").split("|")] for row in page.splitlines() if row[:3] == "| `"
    ]
    told = {name: row[1] for row in rows for name in re.findall("`([^`]+)`", row[0])}
    for command in ("fit", "validate", "test", "predict"):
        config = parse([command, "--config", str(tmp_path / "mine.yaml")], ParseOnly).config[command]
        fields = {name: value for name, value in config.as_dict().items() if name != "config"}
        assert set(fields) - {"verbose"} <= set(told)
    code = [
        file
        for folder in ("datamodules", "experiments", "modules", "strategies")
        for file in (ROOT / folder).rglob("*.py")
    ]
    text = "\n".join(file.read_text(encoding="utf-8") for file in code)
    assert set(re.findall(r'"(TRIVIUM_\w+)"', text)) - {"TRIVIUM_QUICKSTART"} <= set(told)
    own = parse(["fit", "--model", "SFTModule", "--data", "InstructionData", *NEEDED], ParseOnly).config[
        "fit"
    ]
    for name in ("run", "overwrite", "checkpoint_minutes", "wandb_artifacts", "untrained", "seed_everything"):
        assert told[name] == f"`{yaml.safe_dump(own[name]).splitlines()[0]}`"


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
