"""Reads and cleans the quickstart's text: film and Chinese reviews, the interpreter's own text, seeded maths.

Nothing is written here. What a reader returns, and in which order, depends on its inputs alone.
"""

import ast
import builtins
import html
import inspect
import itertools
import math
import operator
import random
import re
import sysconfig
import time
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

# Folders of the standard library left out: tests, installed packages, tables that are neither prose nor code.
SKIPPED = {"__pycache__", "dist-packages", "encodings", "ensurepip", "idle_test", "lib2to3", "pydoc_data"}
SKIPPED |= {"site-packages", "test", "tests", "turtledemo"}
CODE_CHARACTERS = 1_200  # longest code document
PROSE_CHARACTERS = 1_200  # longest piece of reference text
# Control, private and replacement characters, and what wrong decoding of Chinese leaves (Greek, boxes, kana).
CORRUPT = re.compile(
    r"[\x00-\x1f\x7f-\x9f\ue000-\uf8ff\ufffd\u0370-\u03ff\u2500-\u257f\u3040-\u30ff]|~\{|http|www"
)


class Review(NamedTuple):
    """A sentence of an English film review and its mean rating by about 20 people, from −4 to +4."""

    text: str
    rating: float


class ChineseReview(NamedTuple):
    """A Chinese review of a book, hotel or computer, and whether it was filed under the good ones."""

    text: str
    good: bool


class Module(NamedTuple):
    """A module of the library: its name, its code without docstrings, (qualified name, docstring) pairs."""

    name: str
    code: str
    docstrings: tuple[tuple[str, str], ...]


def normalise(text: str) -> str:
    """What two texts have in common when only case, spaces and punctuation set them apart."""
    return re.sub(r"[\W_]+", "", text.casefold())


def distinct(texts: Iterable[str]) -> list[str]:
    """The texts in their order, each only the first time it appears, as `normalise` sees it."""
    first: dict[str, str] = {}
    for text in texts:
        first.setdefault(normalise(text), text)
    return list(first.values())


def reviews(path: Path) -> list[Review]:
    """The rated film reviews of 4 words or more; the file has id, mean rating and sentence, tab-separated."""
    distinct_reviews: dict[str, Review] = {}
    for line in path.read_text(encoding="utf-8").splitlines():
        _, rating, text = line.split("\t")
        text = html.unescape(text).strip()
        # The data set lost its dashes: two spaces or more stand for one, unless a sentence has just ended.
        text = re.sub(r"(?<=[\w,;:)'\"])\s{2,}(?=\w)", " – ", text)
        text = re.sub(r"''|``", '"', text).replace("`", "'").replace("’", "'")
        text = re.sub(r"[\x00-\x1f\x7f-\x9f]", " ", text)
        text = re.sub(r"\.( \.)+", lambda dots: dots.group().replace(" ", ""), text)
        text = re.sub(r"\((\w)\)(?=\w)", r"\1", text)  # (T)he
        text = re.sub(r"n' t\b", "n't", text)
        text = " ".join(text.lstrip(" .,;:–-").split())
        if len(text.split()) >= 4:
            distinct_reviews.setdefault(normalise(text), Review(text, round(float(rating), 4)))
    return list(distinct_reviews.values())


def chinese(positive: Path, negative: Path) -> list[ChineseReview]:
    """The Chinese reviews but corrupt ones: of those that begin alike the first, none if filed under both."""
    beginnings: dict[str, ChineseReview] = {}
    contradicted: set[str] = set()
    for path, good in ((positive, True), (negative, False)):
        for line in path.read_text(encoding="utf-8").splitlines():
            text = _clean_chinese(line)
            if text:
                key = normalise(text)[:24]
                if beginnings.setdefault(key, ChineseReview(text, good)).good != good:
                    contradicted.add(key)
    return [review for key, review in beginnings.items() if key not in contradicted]


def _clean_chinese(line: str) -> str | None:
    text = html.unescape(html.unescape(line)).replace("\u3000", " ")
    text = re.sub(r"&#?\w{0,6}$", "", text)  # the source cuts lines at a length, some within an entity
    text = re.sub(r"^补充点评[^：]{0,24}：", "", text.strip())
    text = re.sub(r"(\W)\1{3,}", r"\1\1\1", text)
    text = text.translate({full: full - 0xFEE0 for full in (*range(0xFF10, 0xFF1A), *range(0xFF21, 0xFF3B))})
    text = re.sub(r"^[-*\s]*(?:\d{1,2}\s*[、.，,:：)）](?!\d))?", "", " ".join(text.split())).strip()
    text = re.sub(r"[，,、；;：:]$", "。", text)
    corrupt = CORRUPT.search(text)
    han = len(re.findall(r"[\u4e00-\u9fff]", text))
    return text if not corrupt and han >= 6 and han >= 0.6 * len(text) else None


def library() -> list[Module]:
    """The running interpreter's standard library, but `SKIPPED`: modules in Python, each real file once."""
    root = Path(sysconfig.get_path("stdlib")).resolve()
    paths: dict[Path, Path] = {}
    for path in sorted(root.rglob("*.py")):
        relative = path.relative_to(root)
        skipped = SKIPPED & set(relative.parts) or relative.name.startswith(("_sysconfigdata", "__phello"))
        if not skipped and not any(part.startswith("config-") for part in relative.parts):
            paths.setdefault(path.resolve(), relative)
    modules = []
    for path, relative in paths.items():
        try:
            source = path.read_text(encoding="utf-8").replace("\f", "")
            tree = ast.parse(source)
        except (SyntaxError, UnicodeDecodeError):
            continue
        name = ".".join(relative.with_suffix("").parts).removesuffix(".__init__")
        docstrings = []
        removed: dict[int, str] = {}  # line number, from 1 → what is left of that line
        lines = source.splitlines()
        for qualified, node, text, docstring in _docstrings(name, tree):
            docstrings.append((qualified, inspect.cleandoc(text)))
            if lines[docstring.lineno - 1][: docstring.col_offset].strip():
                continue  # on the line of its `def`
            removed.update(dict.fromkeys(range(docstring.lineno, (docstring.end_lineno or 0) + 1), ""))
            if len(node.body) == 1 and not isinstance(node, ast.Module):
                removed[docstring.lineno] = " " * docstring.col_offset + "pass"
        kept = [removed.get(n, line) for n, line in enumerate(lines, start=1) if removed.get(n) != ""]
        modules.append(Module(name, "\n".join(kept).strip("\n"), tuple(docstrings)))
    return modules


Scope = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


def _docstrings(name: str, node: Scope) -> Iterator[tuple[str, Scope, str, ast.Expr]]:
    """Every docstring of a module, its classes and their methods (not of functions in functions)."""
    match node.body:
        case [ast.Expr(value=ast.Constant(value=str(text))) as docstring, *_]:
            yield name, node, text, docstring
    if isinstance(node, ast.Module | ast.ClassDef):
        for child in node.body:
            if isinstance(child, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
                yield from _docstrings(f"{name}.{child.name}", child)


def builtin_library() -> list[Module]:
    """What is implemented in C: names and docstrings of the builtins and of a few common modules."""
    modules = []
    for module in (builtins, itertools, math, operator, time):
        docstrings: dict[str, str] = {}
        prefix = "" if module is builtins else f"{module.__name__}."
        for name, member in sorted(vars(module).items()):
            inner = sorted(vars(member).items()) if isinstance(member, type) and module is builtins else []
            for qualified, thing in [(name, member), *((f"{name}.{key}", value) for key, value in inner)]:
                text = inspect.getdoc(thing) if callable(thing) else None
                if text and "__" not in qualified:
                    docstrings[prefix + qualified] = text
        modules.append(Module(module.__name__, "", tuple(docstrings.items())))
    return modules


def code_documents(code: str, size: int = CODE_CHARACTERS) -> list[str]:
    """Cuts code at blank lines, best before a top-level statement, to at most `size` characters.

    A paragraph longer than `size` and one that is mostly a table of numbers are left out.
    """
    documents: list[str] = []
    current = ""
    for paragraph in re.split(r"\n(?:[ \t]*\n)+", code):
        top_level = paragraph[:1].strip() != ""
        if current and (len(current) + len(paragraph) + 2 > size or (top_level and len(current) > size // 2)):
            documents.append(current)
            current = ""
        if len(paragraph) <= size:
            current = f"{current}\n\n{paragraph}" if current else paragraph
    documents.append(current)
    return [text for text in documents if len(text) >= 80 and sum(map(str.isdigit, text)) < 0.15 * len(text)]


def prose(text: str, size: int = PROSE_CHARACTERS) -> list[str]:
    """The plain English of a docstring or page, unwrapped, in documents of at most `size` characters."""
    documents: list[str] = []
    current = ""
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        line = " ".join(paragraph.split())
        letters = sum(character.isalpha() or character == " " for character in line)
        plain = re.match(r"[A-Z\"'`(]", line) and len(line.split()) >= 5 and letters >= 0.85 * len(line)
        if not plain or ">>>" in line or "::=" in line or re.search(r"\n {4,}\S", paragraph):
            continue
        if current and len(current) + len(line) + 2 > size:
            documents.append(current)
            current = ""
        current = f"{current}\n\n{line}" if current else line
    documents.append(current)
    return [document for document in documents if document]


def topics() -> list[str]:
    """The language reference that ships with the interpreter (`help()` shows it), as plain paragraphs."""
    from pydoc_data.topics import topics as pages

    return [document for name in sorted(pages) for document in prose(pages[name])]


def word_problems(seed: int, size: int) -> list[tuple[str, str]]:
    """Seeded word problems, reasoning-gym's `gsm_symbolic`, each once, as (question, worked answer) pairs."""
    import reasoning_gym

    answers: dict[str, str] = {}
    for row in reasoning_gym.create_dataset("gsm_symbolic", size=size, seed=seed):
        question, _, _ = row["question"].partition(" Give the result as your final answer.")
        steps, _, _ = row["metadata"]["answer_cot"].rpartition("####")
        steps = "\n".join(line.strip() for line in steps.splitlines() if line.strip())
        if steps:
            answers.setdefault(question, f"{steps}\nThe answer is {row['answer']}.")
    return list(answers.items())


def sum_problems(seed: int, size: int) -> list[tuple[str, str, str]]:
    """Seeded small sums as (key, expression, steps joined by "; ").

    Two numbers below 100 are added or subtracted tens first, three below 30 from left to right; no result is
    negative. The key is the same for `a + b` and `b + a`: a sum and its mirror image land in one split.
    """
    rng = random.Random(f"{seed}/sums")
    sums: dict[str, tuple[str, str, str]] = {}
    while len(sums) < size:
        kind = rng.choice("++--3")
        a, b, c = rng.randint(1, 99), rng.randint(1, 99), rng.randint(1, 29)
        if kind == "+":
            key, expression = f"{min(a, b)}+{max(a, b)}", f"{a} + {b}"
            (c, tens_a), (d, tens_b) = (a % 10, a // 10 * 10), (b % 10, b // 10 * 10)
            tens, units = tens_a + tens_b, c + d
            steps = f"{tens_a} + {tens_b} = {tens}; {c} + {d} = {units}; {tens} + {units} = {a + b}"
            if a < 10 or b < 10 or 0 in (c, d):
                steps = f"{a} + {b} = {a + b}"
        elif kind == "-":
            a, b = max(a, b), min(a, b)
            key = expression = f"{a} - {b}"
            tens = b // 10 * 10
            steps = f"{a} - {tens} = {a - tens}; {a - tens} - {b % 10} = {a - b}"
            if b < 10 or b == tens:
                steps = f"{a} - {b} = {a - b}"
        else:
            a, b = a % 29 + 1, b % 29 + 1
            key, expression = "+".join(map(str, sorted((a, b, c)))), f"{a} + {b} + {c}"
            steps = f"{a} + {b} = {a + b}; {a + b} + {c} = {a + b + c}"
        sums.setdefault(expression, (key, expression, steps))
    return list(sums.values())
