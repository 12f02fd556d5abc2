"""Builds the files the quickstart trains on and is judged by: corpus, instructions, preferences and prompts.

The film reviews are cut into four slices that never meet: `train`, `val` (validation of pretraining and
SFT, and the reward model's held-out pairs), `ppo` (openings that PPO trains on) and `judge` (openings the
judge compares). Modules of the standard library, Chinese reviews and sums are cut into train and val before
rows are made of them: a docstring goes to the English corpus and is stripped from the code, and both stay
in their module's split.
"""

import hashlib
import json
import platform
import random
from collections.abc import Iterable, Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

from experiments.atomic import whole
from experiments.cli.user_errors import UserError
from experiments.quickstart import fetch as fetching
from experiments.quickstart import instructions as making
from experiments.quickstart import raw_texts

MADE_BY = "trivium quickstart"
VALIDATION_BYTES = 50_000  # UTF-8 bytes of each source's validation file, about
CODE_BYTES = 4_500_000  # UTF-8 bytes of training code, at most
WORD_PROBLEMS = 6_000
SUMS = 9_000
TRAIN_ROWS = {
    ("review", "en"): 4_000,
    ("review_opening", "en"): 1_500,
    ("review_opening", "zh"): 2_000,
    ("sentiment", "en"): 1_000,
    ("sentiment", "zh"): 800,
    ("docs", "en"): 1_200,
    ("sums", "en"): 2_000,
    ("sums", "zh"): 600,
}
VALIDATION_ROWS = {task: 80 for task in TRAIN_ROWS if task != ("review", "en")}  # its prompt is in training
PREFERENCE_PASSES = 4  # groups of four that each training review is in
T = TypeVar("T")


class Split(NamedTuple):
    """Every text, in the slice it belongs to."""

    train: making.Texts
    val: making.Texts
    ppo: list[raw_texts.Review]
    judge: list[raw_texts.Review]


def build(cache: Path, out: Path, seed: int = 0) -> dict[str, Any]:
    """Builds the quickstart's data under `out`, unless it is there already, as it would be built now.

    Args:
        cache: where raw files are kept (see `fetch`).
        out: the folder to make. A folder there that this function has not made is refused.
        seed: of the splits, the sampled rows and the seeded maths.

    Returns:
        The manifest, as in `out/manifest.json`: `identity`, `licences`, `files` (rows, bytes, sha256).

    Raises:
        UserError: if the raw data cannot be had, or `out` holds something else.
    """
    identity = _identity(seed)
    made = _made(out)
    if made.get("identity") == identity and all((out / name).is_file() for name in made["files"]):
        return made
    columns = (SpinnerColumn(), TextColumn("{task.description}"), TimeElapsedColumn())
    with Progress(*columns, transient=True) as progress:
        step = progress.add_task("fetching the raw data", total=None)
        raw = fetching.fetch(cache)
        progress.update(step, description="reading reviews and the standard library")
        split = _split(raw, seed)
        progress.update(step, description="building corpus, instructions, preferences and prompts")
        files = _files(split, seed)
    out.parent.mkdir(parents=True, exist_ok=True)
    with whole(out) as folder:
        written = {name: _write(folder / name, rows) for name, rows in files.items()}
        made = {"made_by": MADE_BY, "identity": identity, "licences": _licences(), "files": written}
        (folder / "manifest.json").write_text(json.dumps(made, indent=2) + "\n", encoding="utf-8")
    return made


def _made(out: Path) -> dict[str, Any]:
    """The manifest of what this function has made at `out` before, empty if there is nothing."""
    if not out.exists() or (out.is_dir() and not any(out.iterdir())):
        return {}
    try:
        manifest = json.loads((out / "manifest.json").read_text(encoding="utf-8"))
        if manifest["made_by"] == MADE_BY:
            return manifest
    except (OSError, ValueError, KeyError, TypeError):
        pass
    raise UserError(
        f"{out} holds something else than the quickstart's data: name another folder, or remove it"
    )


def _identity(seed: int) -> dict[str, object]:
    """What the data is a function of: seed, raw files, versions, and this code."""
    code = b"".join(Path(str(module.__file__)).read_bytes() for module in (fetching, raw_texts, making))
    return {
        "seed": seed,
        "archives": {archive.folder: archive.sha256 for archive in fetching.ARCHIVES},
        "python": platform.python_version(),
        "reasoning-gym": version("reasoning-gym"),
        "code": hashlib.sha256(code + Path(__file__).read_bytes()).hexdigest(),
    }


def _licences() -> dict[str, str]:
    licences = {f"{archive.package} {archive.version}": archive.licence for archive in fetching.ARCHIVES}
    licences[f"Python {platform.python_version()} standard library"] = "PSF-2.0"
    licences[f"reasoning-gym {version('reasoning-gym')}"] = "Apache-2.0"
    return licences


def _split(raw: Mapping[str, Path], seed: int) -> Split:
    reviews = _cut(raw_texts.reviews(raw["reviews"]), (0.75, 0.1, 0.07, 0.08), seed)
    chinese = _cut(raw_texts.chinese(raw["chinese_positive"], raw["chinese_negative"]), (0.95, 0.05), seed)
    known = "\n".join(raw_texts.normalise(review.text) for review in reviews[0])
    held_out = [
        [review for review in part if raw_texts.normalise(review.text) not in known] for part in reviews[1:]
    ]
    modules = _cut(raw_texts.library(), (0.93, 0.07), seed)
    unseen = {module.name for module in modules[1]}
    builtins = [module for module in raw_texts.builtin_library() if module.name not in unseen]
    sums = raw_texts.sum_problems(seed, SUMS)
    keys = _cut(sorted({key for key, _, _ in sums}), (0.95, 0.05), seed)
    trained = set(keys[0])
    return Split(
        train=making.Texts(
            reviews=reviews[0],
            chinese=chinese[0],
            modules=[*modules[0], *builtins],
            sums=[problem for problem in sums if problem[0] in trained],
        ),
        val=making.Texts(
            reviews=held_out[0],
            chinese=chinese[1],
            modules=modules[1],
            sums=[problem for problem in sums if problem[0] not in trained],
        ),
        ppo=held_out[1],
        judge=held_out[2],
    )


def _cut(items: Sequence[T], shares: Sequence[float], seed: int) -> list[list[T]]:
    """The items in a seeded order, cut into slices of these shares."""
    order = random.Random(f"{seed}/cut").sample(items, len(items))
    ends = [round(len(order) * sum(shares[: n + 1])) for n in range(len(shares))]
    return [order[start:end] for start, end in zip([0, *ends], ends, strict=False)]


def _files(split: Split, seed: int) -> dict[str, Sequence[Mapping[str, object]]]:
    rng = random.Random(f"{seed}/files")
    files: dict[str, Sequence[Mapping[str, object]]] = {}
    for name, (train, val) in _corpus(split, seed).items():
        held_out = set(map(raw_texts.normalise, val))
        val = _sample(val, VALIDATION_BYTES, rng)
        train = [text for text in train if raw_texts.normalise(text) not in held_out]
        train = _sample(train, CODE_BYTES if name == "code" else None, rng)
        files[f"corpus/{name}.train.jsonl"] = [{"text": text} for text in train]
        files[f"corpus/{name}.val.jsonl"] = [{"text": text} for text in val]
    val_rows = making.instructions(split.val, VALIDATION_ROWS, rng)
    asked = {(row.instruction, row.input) for row in val_rows}
    answered = {row.output for row in val_rows if row.task == "docs"}
    train_rows = making.instructions(split.train, TRAIN_ROWS, rng)
    train_rows = [row for row in train_rows if (row.instruction, row.input) not in asked]
    train_rows = [row for row in train_rows if row.output not in answered]
    files["instructions/train.jsonl"] = [row._asdict() for row in train_rows]
    files["instructions/val.jsonl"] = [row._asdict() for row in val_rows]
    files["preferences/train.jsonl"] = list(making.preferences(split.train.reviews, PREFERENCE_PASSES, rng))
    files["preferences/val.jsonl"] = list(making.preferences(split.val.reviews, 1, rng))
    files["reviews.val.jsonl"] = [review._asdict() for review in split.val.reviews]
    judged = making.openings(split.judge, rng)
    trained = making.openings(split.ppo, rng, per_review=2)
    trained = [opening for opening in trained if opening not in set(judged)]
    for name, texts in (("train", trained), ("val", judged)):
        rows = [{"instruction": making.REVIEW_PROMPT, "reply_prefix": opening} for opening in texts]
        files[f"prompts/{name}.jsonl"] = rows
    return files


def _corpus(split: Split, seed: int) -> dict[str, tuple[list[str], list[str]]]:
    """(train, val) documents of the four sources: a split's code and English come from its own modules."""
    pages = _cut(raw_texts.topics(), (0.95, 0.05), seed)
    problems = _cut(raw_texts.word_problems(seed, WORD_PROBLEMS), (0.97, 0.03), seed)
    corpus: dict[str, list[list[str]]] = {"english": [], "chinese": [], "code": [], "maths": []}
    for texts, topics, worked in zip((split.train, split.val), pages, problems, strict=True):
        docstrings = [docstring for module in texts.modules for _, docstring in module.docstrings]
        english = [text for docstring in docstrings for text in raw_texts.prose(docstring)]
        corpus["english"].append([*(review.text for review in texts.reviews), *english, *topics])
        corpus["chinese"].append([review.text for review in texts.chinese])
        code = [raw_texts.code_documents(module.code) for module in texts.modules]
        corpus["code"].append([document for documents in code for document in documents])
        sums = [
            (f"What is {sum_}?", f"{steps}. The answer is {steps.split()[-1]}.")
            for _, sum_, steps in texts.sums
        ]
        maths = [*worked, *sums[::3]]
        corpus["maths"].append([f"Question: {question}\nAnswer: {answer}" for question, answer in maths])
    return {name: (train, val) for name, (train, val) in corpus.items()}


def _sample(texts: Iterable[str], size: int | None, rng: random.Random) -> list[str]:
    """The texts in a random order, each once, as many as fit in `size` UTF-8 bytes (all, if None)."""
    kept, used = [], 0
    special = ("<s>", "</s>", "<pad>")  # a tokenizer would not read these as text
    order = [text for text in raw_texts.distinct(texts) if not any(token in text for token in special)]
    rng.shuffle(order)
    for text in order:
        used += len(text.encode())
        if size is not None and used > size:
            break
        kept.append(text)
    return kept


def _write(path: Path, rows: Sequence[Mapping[str, object]]) -> dict[str, int | str]:
    content = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows).encode()
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content)
    return {"rows": len(rows), "bytes": len(content), "sha256": hashlib.sha256(content).hexdigest()}
