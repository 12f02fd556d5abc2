"""The picture of the token cache: from rows to steps."""

import json
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from datamodules.caching.blocks import SourceBlocks
from datamodules.caching.token_cache import TokenCache
from datamodules.corpus import DocumentEncoder
from datamodules.sampling.loaders import StepLoader
from datamodules.sampling.orders import Shuffled
from datamodules.sampling.step_sampler import StepSampler
from experiments.docs.drawing import CENTRED, DARK, GIVEN, PADDING, SHADES, TRAINED, WIDTH, box

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
    """From rows to steps: documents end to end, cut into blocks, dealt out by the step sampler."""
    rows = [{"text": TEXTS[n % len(TEXTS)][: 24 + 9 * (n * 5 % 7)]} for n in range(SOURCE_ROWS)]
    file = scratch / "web.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    tokens = TokenCache(str(file), "data.sources.web.train", DocumentEncoder(tokenizer, "text"))
    tokens.write(strict=True)
    blocks = SourceBlocks(tokens, BLOCK, keep_tail=False)
    ends, total = blocks.read()[1].tolist(), tokens.index.tokens
    figure = Figure(figsize=(WIDTH, 4.1))
    axes = figure.add_axes((0.01, 0.02, 0.98, 0.96))
    _documents(axes, ends, total)
    _blocks(axes, blocks, ends, total)
    _steps(axes, len(blocks))
    axes.set(xlim=(-0.5, total + 0.5), ylim=(7.9, -0.4))
    axes.axis("off")
    return figure


def _documents(axes: Axes, ends: list[int], total: int) -> None:
    """The rows of the source, and the same in the cache without gaps, a unit of the axes a token."""
    _title(axes, 0, f"the source: {SOURCE_ROWS} rows of web.jsonl, one document each")
    gap = 1.2
    scale = (total - gap * (SOURCE_ROWS - 1)) / ends[-1]
    _title(axes, 1.75, f"the token cache: a shard on disk, 00000.arrow, {total} tokens end to end")
    for n, (start, end) in enumerate(zip([0, *ends[:-1]], ends, strict=True)):
        _document(axes, start * scale + n * gap, (end - start) * scale, 0.45, n, str(n + 1))
        _document(axes, start, end - start, 2.2, n, str(n + 1))


def _blocks(axes: Axes, blocks: SourceBlocks, ends: list[int], total: int) -> None:
    _title(axes, 3.5, f"blocks of sequence_length: {BLOCK} tokens; documents stay apart inside a block")
    for block in range(len(blocks)):
        documents, left = blocks[block][1], block * BLOCK
        for document in np.unique(documents):
            places = np.flatnonzero(documents == document)
            number = int(np.searchsorted(ends, left + places[0], side="right"))
            name = str(number + 1) if len(places) > 2 else ""
            _document(axes, left + 0.6 + places[0] * 0.925, len(places) * 0.925, 3.95, number, name)
        box(axes, left + 0.4, 3.9, BLOCK - 0.8, 0.75, fill=False, linewidth=1.6)
        axes.text(left + BLOCK / 2, 4.88, f"block {block}", **CENTRED, fontsize=8.5)
    used = len(blocks) * BLOCK
    box(axes, used + 0.6, 3.95, total - used - 0.6, 0.65, linewidth=0.7, **PADDING)
    axes.text((used + total) / 2, 4.88, "left out", **CENTRED, fontsize=8.5)


def _steps(axes: Axes, blocks: int) -> None:
    """Which blocks each step takes, and where a run that was stopped after two of them goes on."""
    title = f"steps of global_batch_size: {STEP_BLOCKS} blocks, by (seed, step); green: where resuming begins"
    _title(axes, 5.75, title)
    lengths = np.full(blocks, BLOCK)
    sampler = StepSampler(Shuffled(blocks, seed=0), lengths, lengths, STEP_BLOCKS, STEP_BLOCKS)
    loader = StepLoader(sampler, lambda rows, places: {}, 1, 0)
    loader.load_state_dict({"step": 2})
    state = loader.state_dict()
    steps = blocks // STEP_BLOCKS
    width = blocks * BLOCK / steps
    for step in range(steps):
        left = step * width
        colour = TRAINED if step == state["step"] else GIVEN
        box(axes, left + 0.4, 6.2, width - 0.8, 0.75, facecolor=colour, linewidth=0.7, edgecolor="#555555")
        names = ", ".join(map(str, sampler.rows(step).tolist()))
        axes.text(left + width / 2, 6.57, f"step {step}: blocks {names}", **CENTRED, fontsize=8.5)
    middle, arrow = (state["step"] + 0.5) * width, {"arrowstyle": "->"}
    text = f"a checkpoint stores {json.dumps(state)}"
    axes.annotate(text, (middle, 6.98), (middle, 7.65), **CENTRED, arrowprops=arrow, weight="bold")


def _title(axes: Axes, top: float, text: str) -> None:
    axes.text(0, top + 0.1, text, va="center", weight="bold")


def _document(axes: Axes, left: float, width: float, top: float, number: int, name: str) -> None:
    colour = SHADES[number % 3]
    box(axes, left, top, width, 0.65, facecolor=colour, edgecolor="white", linewidth=1)
    ink = "white" if colour == DARK else "black"
    axes.text(left + width / 2, top + 0.33, name, **CENTRED, color=ink, fontsize=8.5)
