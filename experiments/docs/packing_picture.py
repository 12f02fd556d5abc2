"""The picture of packing: the same rows padded and packed, and who sees whom in a pack."""

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch

from datamodules.caching.packing import best_fit_decreasing
from datamodules.collate import documents_in_rows
from datamodules.sampling.orders import Shuffled
from datamodules.sampling.step_sampler import StepSampler
from experiments.docs.drawing import CENTRED, MONO, PADDING, SHADES, WIDTH, box, label

ROWS, MICRO, CAPACITY = 48, 8, 1024  # rows of a step, rows of a micro-batch, tokens of a pack
EXPLANATION = """One pack of three rows
and two tokens of padding.

A filled square: the token of
this line attends to the token
of this column.

Every row sees itself only,
and only what came before;
its positions begin at 0, so
the loss is that of the row
on its own."""


def packing() -> Figure:
    """The same rows padded in micro-batches and laid into packs, and the attention mask of one pack."""
    rng = np.random.default_rng(4)
    lengths = np.clip(rng.lognormal(5.2, 0.8, ROWS), 16, CAPACITY).astype(np.int64)
    figure = Figure(figsize=(WIDTH, 7.4))
    left, right = figure.add_axes((0.06, 0.575, 0.40, 0.36)), figure.add_axes((0.56, 0.575, 0.40, 0.36))
    _padded(left, lengths)
    _packed(right, lengths)
    for axes in (left, right):
        axes.set_xlim(0, CAPACITY * 1.01)
        axes.set_xticks([0, 256, 512, 768, 1024])
        axes.set_yticks([])
    figure.legend(
        handles=[tuple(Patch(facecolor=shade) for shade in SHADES), Patch(**PADDING)],
        labels=["rows, each of one shade in both pictures", "padding"],
        handler_map={tuple: HandlerTuple(ndivide=None)},
        handlelength=4,
        loc="center",
        bbox_to_anchor=(0.5, 0.495),
        ncols=2,
    )
    _attention(figure)
    return figure


def _padded(axes: Axes, lengths: np.ndarray) -> None:
    sampler = StepSampler(Shuffled(ROWS, 0), lengths, lengths, ROWS, MICRO)
    padded, line = 0, 0
    for step, places in map(sampler.micro_batch, range(ROWS // MICRO)):
        rows = sampler.rows(step)[places]
        longest = int(lengths[rows].max())
        padded += longest * len(rows)
        for row in rows:
            _bar(axes, line, 0, int(lengths[row]), longest, row)
            line += 1
        line += 1
    axes.set_ylim(line, -1)
    axes.text(CAPACITY, line - 1, f"{MICRO} rows a micro-batch", ha="right", color="#444444")
    label(axes, f"Each row on its own: {int(lengths.sum()) / padded:.0%} filled", "tokens", "rows")


def _packed(axes: Axes, lengths: np.ndarray) -> None:
    order, starts = best_fit_decreasing(lengths, CAPACITY)
    for pack, (start, stop) in enumerate(zip(starts[:-1], starts[1:], strict=True)):
        at = 0
        for row in order[start:stop]:
            _bar(axes, pack, at, at + int(lengths[row]), CAPACITY if row == order[stop - 1] else 0, row)
            at += int(lengths[row])
    packs = len(starts) - 1
    axes.set_ylim(packs - 0.4, -0.6)
    filled = int(lengths.sum()) / (packs * CAPACITY)
    label(axes, f"packing: {CAPACITY}, packs are {filled:.0%} filled", "tokens", "packs")


def _bar(axes: Axes, line: int, start: int, stop: int, padded_to: int, row: int) -> None:
    colour = SHADES[row % 3]
    axes.barh(line, stop - start, height=0.86, left=start, color=colour, edgecolor="white", linewidth=0.5)
    if padded_to > stop:
        axes.barh(line, padded_to - stop, height=0.86, left=stop, linewidth=0.4, **PADDING)


def _attention(figure: Figure) -> None:
    """Who sees whom in a pack of 16 tokens that holds rows of 6, 5 and 3."""
    rows = [np.arange(length) for length in (6, 5, 3)]
    batch = documents_in_rows([rows, [np.arange(16)]], pad_id=0)
    documents, positions = batch["document_ids"][:1], batch["position_ids"][0]
    owners = documents[0].numpy()
    sees = np.tril(owners[:, None] == owners) & (owners[:, None] >= 0)
    axes = figure.add_axes((0.2, 0.04, 0.39, 0.40))
    size = len(positions)
    for query, key in np.argwhere(sees):
        shade = SHADES[int(documents[0, key])]
        box(axes, key, query, 1, 1, facecolor=shade, edgecolor="white", linewidth=0.8)
    names = [str(int(document)) if document >= 0 else "−1" for document in documents[0]]
    for token in range(size):
        axes.text(token + 0.5, -0.5, str(int(positions[token])), **CENTRED, fontsize=9)
        axes.text(token + 0.5, -1.5, names[token], **CENTRED, fontsize=7.5)
        axes.text(-0.3, token + 0.5, names[token], ha="right", va="center", fontsize=9)
    axes.text(-0.8, -0.5, "position_ids", ha="right", va="center", family=MONO, fontsize=9)
    axes.text(-0.8, -1.5, "document_ids", ha="right", va="center", family=MONO, fontsize=9)
    box(axes, 0, 0, size, size, fill=False, edgecolor="#888888", linewidth=0.8)
    axes.set(xlim=(-0.1, size + 0.1), ylim=(size + 0.1, -2.1), aspect="equal")
    axes.axis("off")
    axes.text(-2.2, 8, "a token …", rotation=90, **CENTRED, color="#444444")
    axes.text(8, size + 0.7, "… sees these", **CENTRED, color="#444444")
    axes.text(size + 1.2, 1, EXPLANATION, va="top", linespacing=1.35)
