"""Draws the pictures of `data.md` from the code that trains: `python -m experiments.docs.pictures [FOLDER]`.

The same code gives the same pictures. What a colour says, a line style, a hatch, a frame or a name says too.
"""

import json
import sys
from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch, Rectangle
from matplotlib.ticker import PercentFormatter
from PIL import Image

from datamodules.caching.blocks import SourceBlocks
from datamodules.caching.packing import best_fit_decreasing
from datamodules.caching.token_cache import TokenCache
from datamodules.collate import IGNORED, documents_in_rows, token_rows
from datamodules.corpus import DocumentEncoder
from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import Segment
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.tokenizer import encode_batch
from datamodules.sampling.loaders import StepLoader
from datamodules.sampling.mixture_schedule import MixtureSchedule
from datamodules.sampling.orders import Shuffled
from datamodules.sampling.step_sampler import StepSampler
from experiments.commands.tokenizer import train
from modules.backbone import attention_mask

STYLE: dict[str, Any] = {
    "figure.dpi": 100, "savefig.dpi": 200, "font.family": "DejaVu Sans", "font.size": 9.5,
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": "#888888",
    "axes.titlelocation": "left", "axes.titlesize": 10.5, "axes.titleweight": "bold", "legend.frameon": False,
    "hatch.linewidth": 0.6, "hatch.color": "#888888", "text.parse_math": False,
}  # fmt: skip
WIDTH = 8  # inches: 800 px on the page, 1600 in the file
DARK, MIDDLE, LIGHT, EMPTY = "#12507b", "#e07b00", "#9bd3c0", "#ffffff"  # dark, middle and light in grey too
LINES = {"solid": DARK, "dashed": MIDDLE, "dotted": "#3f9c80"}
CENTRED: dict[str, Any] = {"ha": "center", "va": "center"}
MONO = "DejaVu Sans Mono"
GIVEN, TRAINED = "#e8e8e8", "#8fd19e"


def main(folder: str) -> list[Path]:
    """Writes every picture; returns their files."""
    out = Path(folder)
    out.mkdir(parents=True, exist_ok=True)
    with rc_context(STYLE), TemporaryDirectory() as scratch:
        tokenizer = _tokenizer(Path(scratch))
        figures = {
            "mix.png": mix(),
            "packing.png": packing(),
            "mask.png": mask(tokenizer),
            "cache.png": cache(tokenizer, Path(scratch)),
        }
        for name, figure in figures.items():
            whole = BytesIO()
            figure.savefig(whole)
            Image.open(whole).convert("RGB").quantize(64).save(out / name, optimize=True)
    return [out / name for name in figures]


# --- the mix

WEIGHTS = {"web": 0.6, "code": 0.3, "wiki": 0.1}
CHANGE, SHOWN = 96, 160  # block from which on web rests and the others have a half each; blocks shown


def mix() -> Figure:
    """Which source each block comes from, what shares that gives, and how far they are from the target."""
    schedule = MixtureSchedule(list(WEIGHTS.values()), {CHANGE: [0, 0.5, 0.5]})
    draws = np.array([schedule[block][0] for block in range(SHOWN)])
    chances = [schedule.weights(block) for block in range(SHOWN)]
    rng = np.random.default_rng(0)
    random = np.array([rng.choice(len(WEIGHTS), p=chance) for chance in chances])
    targets = np.array([schedule.target(blocks) for blocks in range(1, SHOWN + 1)])
    given, by_chance = _counts(draws), _counts(random)

    figure = Figure(figsize=(WIDTH, 6.6))
    grid = figure.add_gridspec(
        3, 2, height_ratios=(1, 2.6, 2.6), hspace=0.55, left=0.08, right=0.97, top=0.95, bottom=0.08
    )
    top, middle = figure.add_subplot(grid[0, :]), figure.add_subplot(grid[1, :])
    below = [figure.add_subplot(grid[2, 0])]
    below.append(figure.add_subplot(grid[2, 1], sharey=below[0]))
    blocks = np.arange(1, SHOWN + 1)
    for row, (name, (style, colour)) in enumerate(zip(WEIGHTS, LINES.items(), strict=True)):
        top.eventplot(np.flatnonzero(draws == row) + 0.5, lineoffsets=row, linelengths=0.7, color=colour)
        middle.plot(blocks, given[:, row] / blocks, color=colour, linestyle=style, linewidth=1.8)
        middle.plot(blocks, targets[:, row] / blocks, color="#000000", linewidth=0.7)
        middle.text(60, targets[60, row] / 61 + 0.035, name, color=colour, weight="bold")
        for axes, counts in zip(below, (given, by_chance), strict=True):
            axes.plot(blocks, (counts - targets)[:, row], color=colour, linestyle=style, label=name)
    _label(top, "Which source each block comes from", "", "")
    top.set_yticks(range(len(WEIGHTS)), WEIGHTS)
    top.set_ylim(2.6, -0.6)
    _label(middle, "Share of all tokens so far (black: by the weights)", "", "")
    middle.set_ylim(0, 1)
    middle.yaxis.set_major_formatter(PercentFormatter(1, decimals=0))
    middle.text(CHANGE + 1, 0.9, "weight_changes: code 50, wiki 50", color="#444444")
    for axes in (top, middle):
        axes.axvline(CHANGE, color="#444444", linewidth=0.8, linestyle=(0, (1, 1)))
        axes.set_xlim(0, SHOWN)
    most = np.abs(given - targets).max()
    _label(below[0], f"By the schedule: at most {most:.2f} blocks away", "blocks", "blocks from target")
    most = np.abs(by_chance - targets).max()
    _label(below[1], f"Drawn at random: up to {most:.1f}", "blocks", "")
    for axes in below:
        axes.axhspan(-1, 1, color="#e8e8e8", zorder=0)
        axes.set_xlim(0, SHOWN)
    below[0].legend(loc="lower left", ncols=3, handlelength=2.4)
    below[0].text(SHOWN, 1.25, "± 1 block", ha="right", color="#444444")
    return figure


def _counts(draws: np.ndarray) -> np.ndarray:
    """(blocks, sources): how many of the first n blocks each source gave."""
    return np.cumsum(draws[:, None] == np.arange(len(WEIGHTS)), axis=0)


# --- packing

ROWS, MICRO, CAPACITY = 48, 8, 1024  # rows of a step, rows of a micro-batch, tokens of a pack


def packing() -> Figure:
    """The same rows padded in micro-batches and laid into packs, and the attention mask of one pack."""
    rng = np.random.default_rng(4)
    lengths = np.clip(rng.lognormal(5.2, 0.8, ROWS), 16, CAPACITY).astype(np.int64)
    plan = StepSampler(Shuffled(ROWS, 0), lengths, lengths, ROWS, MICRO)
    micro_batches = [plan.rows(step)[places] for step, places in map(plan.micro_batch, range(ROWS // MICRO))]
    order, starts = best_fit_decreasing(lengths, CAPACITY)

    figure = Figure(figsize=(WIDTH, 7.4))
    left, right = figure.add_axes((0.06, 0.575, 0.40, 0.36)), figure.add_axes((0.56, 0.575, 0.40, 0.36))
    padded, line = 0, 0
    for rows in micro_batches:
        longest = int(lengths[rows].max())
        padded += longest * len(rows)
        for row in rows:
            _bar(left, line, 0, int(lengths[row]), longest, row)
            line += 1
        line += 1
    left.set_ylim(line, -1)
    left.text(CAPACITY, line - 1, f"{MICRO} rows a micro-batch", ha="right", color="#444444")
    total = int(lengths.sum())
    _label(left, f"Each row on its own: {total / padded:.0%} filled", "tokens", "rows")
    for pack, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        at = 0
        for row in order[start:stop]:
            _bar(right, pack, at, at + int(lengths[row]), CAPACITY if row == order[stop - 1] else 0, row)
            at += int(lengths[row])
    packs = len(starts) - 1
    right.set_ylim(packs - 0.4, -0.6)
    filled = total / (packs * CAPACITY)
    _label(right, f"packing: {CAPACITY}, packs are {filled:.0%} filled", "tokens", "packs")
    for axes in (left, right):
        axes.set_xlim(0, CAPACITY * 1.01)
        axes.set_xticks([0, 256, 512, 768, 1024])
        axes.set_yticks([])
    figure.legend(
        handles=[
            tuple(Patch(facecolor=shade) for shade in (DARK, MIDDLE, LIGHT)),
            Patch(facecolor=EMPTY, edgecolor="#888888", hatch="////"),
        ],
        labels=["rows, each of one shade in both pictures", "padding"],
        handler_map={tuple: HandlerTuple(ndivide=None)},
        handlelength=4,
        loc="center",
        bbox_to_anchor=(0.5, 0.495),
        ncols=2,
    )
    _attention(figure)
    return figure


def _bar(axes: Axes, line: int, start: int, stop: int, padded_to: int, row: int) -> None:
    colour = (DARK, MIDDLE, LIGHT)[row % 3]
    axes.barh(line, stop - start, height=0.86, left=start, color=colour, edgecolor="white", linewidth=0.5)
    if padded_to > stop:
        axes.barh(
            line,
            padded_to - stop,
            height=0.86,
            left=stop,
            color=EMPTY,
            hatch="////",
            edgecolor="#888888",
            linewidth=0.4,
        )


def _attention(figure: Figure) -> None:
    """Who sees whom in a pack of 16 tokens that holds rows of 6, 5 and 3."""
    rows = [np.arange(length) for length in (6, 5, 3)]
    batch = documents_in_rows([rows, [np.arange(16)]], pad_id=0)
    documents, positions = batch["document_ids"][:1], batch["position_ids"][0]
    sees = attention_mask(documents)
    assert sees is not None
    found = sees[0, 0].numpy() & (documents[0, :, None] >= 0).numpy()
    axes = figure.add_axes((0.2, 0.04, 0.39, 0.40))
    size = len(positions)
    for query, key in np.argwhere(found):
        shade = (DARK, MIDDLE, LIGHT)[int(documents[0, key])]
        axes.add_patch(Rectangle((key, query), 1, 1, facecolor=shade, edgecolor="white", linewidth=0.8))
    names = [str(int(document)) if document >= 0 else "−1" for document in documents[0]]
    for token in range(size):
        axes.text(token + 0.5, -0.5, str(int(positions[token])), **CENTRED, fontsize=9)
        axes.text(token + 0.5, -1.5, names[token], **CENTRED, fontsize=7.5)
        axes.text(-0.3, token + 0.5, names[token], ha="right", va="center", fontsize=9)
    axes.text(-0.8, -0.5, "position_ids", ha="right", va="center", family=MONO, fontsize=9)
    axes.text(-0.8, -1.5, "document_ids", ha="right", va="center", family=MONO, fontsize=9)
    axes.add_patch(Rectangle((0, 0), size, size, fill=False, edgecolor="#888888", linewidth=0.8))
    axes.set(xlim=(-0.1, size + 0.1), ylim=(size + 0.1, -2.1), aspect="equal")
    axes.axis("off")
    axes.text(-2.2, 8, "a token …", rotation=90, **CENTRED, color="#444444")
    axes.text(8, size + 0.7, "… sees these", **CENTRED, color="#444444")
    said = (
        "One pack of three rows\nand two tokens of padding.\n\n"
        "A filled square: the token of\nthis line attends to the token\nof this column.\n\n"
        "Every row sees itself only,\nand only what came before;\nits positions begin at 0, so\n"
        "the loss is that of the row\non its own."
    )
    axes.text(size + 1.2, 1, said, va="top", linespacing=1.35)


# --- the mask

INSTRUCTION = {"instruction": "Add the numbers.", "input": "12 + 7", "output": "19"}
CHAT = {
    "messages": [
        {"role": "user", "content": "Is the film good?"},
        {"role": "assistant", "content": "It is dull."},
        {"role": "user", "content": "And the music?"},
        {"role": "assistant", "content": "The music is great."},
    ]
}
UNIT, PER_LINE = 0.98, 100  # characters of padding around a token's text; characters of a line


def mask(tokenizer: Any) -> Figure:
    """Two rows token by token: what is given, what is trained on, and the labels."""
    chat = ChatTemplate("all").segments(CHAT, 0, tokenizer)
    rows = [
        ("An instruction, by InstructionTemplate", InstructionTemplate().segments(INSTRUCTION, 0, tokenizer)),
        ("A chat, by ChatTemplate with train_on: all", chat),
    ]
    figure = Figure(figsize=(WIDTH, 4.5))
    axes = figure.add_axes((0.01, 0.08, 0.98, 0.91))
    top = 0.0
    for title, segments in rows:
        axes.text(0, top + 0.75, title, weight="bold", fontsize=10.5)
        top = _token_lines(axes, top + 1.2, segments, tokenizer)
    axes.set(xlim=(0, PER_LINE), ylim=(top - 0.4, 0.1))
    axes.axis("off")
    figure.legend(
        handles=[
            Patch(facecolor=GIVEN, edgecolor="#555555", label="given: label −100"),
            Patch(facecolor=TRAINED, edgecolor="#000000", linewidth=1.3, label="trained: label = its id"),
            Patch(facecolor=EMPTY, edgecolor="#555555", hatch="////", label="special token"),
        ],
        loc="lower center",
        ncols=3,
    )
    figure.text(0.99, 0.965, "· space   ↵ line end", ha="right", color="#444444")
    return figure


def _token_lines(axes: Axes, top: float, segments: Sequence[Segment], tokenizer: Any) -> float:
    """Draws a row's tokens with its labels under them, in lines; returns where it ends."""
    (encoded,) = encode_batch(tokenizer, [segments])
    labels = np.where(encoded.trained, encoded.ids, IGNORED)
    batch = token_rows([[encoded.ids]], [[labels]], [0], tokenizer.pad_token_id)
    at = 0.0
    for token, label in zip(batch["input_ids"][0].tolist(), batch["labels"][0].tolist(), strict=True):
        text = tokenizer.decode([token]).replace("\n", "↵").replace(" ", "·")
        said = str(label).replace("-", "−")
        width = max(len(text), len(said)) * 1.02 + UNIT
        if at + width > PER_LINE:
            at, top = 0.0, top + 1.75
        trained, special = label != IGNORED, token in tokenizer.all_special_ids
        colour = TRAINED if trained else GIVEN
        axes.add_patch(
            Rectangle(
                (at + 0.12, top),
                width - 0.24,
                0.8,
                facecolor=colour,
                hatch="////" if special else None,
                edgecolor="#000000" if trained else "#555555",
                linewidth=1.3 if trained else 0.7,
            )
        )
        middle, box = at + width / 2, {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        axes.text(
            middle, top + 0.4, text, **CENTRED, family=MONO, fontsize=8.5, bbox=box if special else None
        )
        axes.text(
            middle,
            top + 1.08,
            said,
            **CENTRED,
            family=MONO,
            fontsize=8,
            weight="bold" if trained else "normal",
            color="#000000" if trained else "#777777",
        )
        at += width
    return top + 1.75


# --- the cache

TEXTS = [
    "The film is good. The music is great, and the story is not.",
    "Add the numbers.\nThe numbers are in the table.",
    "Is the film dull? The music is.",
    "It is a story. And it is a good story, a great story, with music.",
    "### Instruction:\nAdd the numbers.\n\n### Response:\nIt is good.\n",
    "And the music? The music is great.",
]
BLOCK, STEP_BLOCKS, SOURCE_ROWS = 16, 3, 12  # tokens of a block, blocks of a step, documents of the source


def cache(tokenizer: Any, scratch: Path) -> Figure:
    """From rows to steps: documents end to end, cut into blocks, dealt out by the step plan."""
    rows = [{"text": TEXTS[n % len(TEXTS)][: 24 + 9 * (n * 5 % 7)]} for n in range(SOURCE_ROWS)]
    file = scratch / "web.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = TokenCache(str(file), "data.sources.web.train", DocumentEncoder(tokenizer, "text"))
    tokens.write(strict=True)
    blocks = SourceBlocks(tokens, BLOCK, keep_tail=False)
    _, ends = blocks.read()
    used = np.full(len(blocks), BLOCK)
    plan = StepSampler(Shuffled(len(blocks), seed=0), used, used, STEP_BLOCKS, STEP_BLOCKS)
    state = StepLoader(plan, lambda rows, places: {}, 1, 0)
    state.load_state_dict({"step": 2})

    figure = Figure(figsize=(WIDTH, 4.1))
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
    whole, total = len(blocks) * BLOCK, tokens.index.tokens
    starts = [0, *ends[:-1].tolist()]
    said = f"the source: {SOURCE_ROWS} rows of web.jsonl, one document each"
    _stage(axes, 0, said)
    gap = 1.2
    scale = (total - gap * (SOURCE_ROWS - 1)) / int(ends[-1])
    for n, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True)):
        left = start * scale + n * gap
        _box(axes, left, (end - start) * scale, 0.45, n, str(n + 1))
    _stage(axes, 1.75, f"the token cache: a shard on disk, 00000.arrow, {total} tokens end to end")
    for n, (start, end) in enumerate(zip(starts, ends.tolist(), strict=True)):
        _box(axes, start, end - start, 2.2, n, str(n + 1))
    _stage(axes, 3.5, f"blocks of sequence_length: {BLOCK} tokens; documents stay apart inside a block")
    for block in range(len(blocks)):
        documents = blocks[block][1]
        left = block * BLOCK
        for document in np.unique(documents):
            places = np.flatnonzero(documents == document)
            first = int(np.searchsorted(ends, left + places[0], side="right"))
            said = str(first + 1) if len(places) > 2 else ""
            _box(axes, left + 0.6 + places[0] * 0.925, len(places) * 0.925, 3.95, first, said)
        axes.add_patch(Rectangle((left + 0.4, 3.9), BLOCK - 0.8, 0.75, fill=False, linewidth=1.6))
        axes.text(left + BLOCK / 2, 4.88, f"block {block}", **CENTRED, fontsize=8.5)
    axes.add_patch(
        Rectangle(
            (whole + 0.6, 3.95),
            total - whole - 0.6,
            0.65,
            facecolor=EMPTY,
            hatch="////",
            edgecolor="#888888",
            linewidth=0.7,
        )
    )
    axes.text((whole + total) / 2, 4.88, "left out", **CENTRED, fontsize=8.5)
    steps = len(blocks) // STEP_BLOCKS
    _stage(
        axes,
        5.75,
        f"steps of global_batch_size: {STEP_BLOCKS} blocks, by (seed, step); green: where resuming begins",
    )
    width = whole / steps
    for step in range(steps):
        left = step * width
        names = ", ".join(map(str, plan.rows(step).tolist()))
        new = step == state.state_dict()["step"]
        axes.add_patch(
            Rectangle(
                (left + 0.4, 6.2),
                width - 0.8,
                0.75,
                facecolor=TRAINED if new else GIVEN,
                linewidth=0.7,
                edgecolor="#555555",
            )
        )
        axes.text(left + width / 2, 6.57, f"step {step}: blocks {names}", **CENTRED, fontsize=8.5)
        if new:
            said = f"a checkpoint stores {json.dumps(state.state_dict())}"
            axes.annotate(
                said,
                (left + width / 2, 6.98),
                (left + width / 2, 7.65),
                **CENTRED,
                arrowprops={"arrowstyle": "->"},
                weight="bold",
            )
    axes.set(xlim=(-0.5, total + 0.5), ylim=(7.9, -0.4))
    axes.axis("off")
    return figure


def _stage(axes: Axes, top: float, said: str) -> None:
    axes.text(0, top + 0.1, said, va="center", weight="bold")


def _box(axes: Axes, left: float, width: float, top: float, document: int, said: str) -> None:
    colour = (DARK, MIDDLE, LIGHT)[document % 3]
    axes.add_patch(Rectangle((left, top), width, 0.65, facecolor=colour, edgecolor="white", linewidth=1))
    ink = "white" if colour == DARK else "black"
    axes.text(left + width / 2, top + 0.33, said, **CENTRED, color=ink, fontsize=8.5)


# --- shared


def _label(axes: Axes, title: str, x: str, y: str) -> None:
    axes.set(title=title, xlabel=x, ylabel=y)


def _tokenizer(scratch: Path) -> Any:
    """A byte-level BPE of the texts above, so that words are tokens."""
    texts = [*TEXTS, *INSTRUCTION.values(), *(message["content"] for message in CHAT["messages"])]
    file = scratch / "texts.jsonl"
    file.write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return train([str(file)], 400, str(scratch / "tokenizer"))


if __name__ == "__main__":
    for path in main(sys.argv[1] if len(sys.argv) > 1 else str(Path(__file__).parent)):
        print(path)
