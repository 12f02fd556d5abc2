"""The picture of the mask: which tokens of a row are given, and which are trained on."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from datamodules.collate import IGNORED, token_rows
from datamodules.rendering.chat_template import ChatTemplate
from datamodules.rendering.segments import Segment
from datamodules.rendering.templates import InstructionTemplate
from datamodules.rendering.whole_text import encode_batch
from experiments.docs.drawing import CENTRED, EMPTY, GIVEN, MONO, TRAINED, WIDTH, box

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
    rows = {
        "An instruction, by InstructionTemplate": InstructionTemplate().segments(INSTRUCTION, 0, tokenizer),
        "A chat, by ChatTemplate with train_on: all": ChatTemplate("all").segments(CHAT, 0, tokenizer),
    }
    figure = Figure(figsize=(WIDTH, 4.5))
    axes = figure.add_axes((0.01, 0.08, 0.98, 0.91))
    top = 0.0
    for title, segments in rows.items():
        axes.text(0, top + 0.75, title, weight="bold", fontsize=10.5)
        top = _token_lines(axes, top + 1.2, segments, tokenizer)
    axes.set(xlim=(0, PER_LINE), ylim=(top - 0.4, 0.1))
    axes.axis("off")
    handles = [
        Patch(facecolor=GIVEN, edgecolor="#555555", label="given: label −100"),
        Patch(facecolor=TRAINED, edgecolor="#000000", linewidth=1.3, label="trained: label = its id"),
        Patch(facecolor=EMPTY, edgecolor="#555555", hatch="////", label="special token"),
    ]
    figure.legend(handles=handles, loc="lower center", ncols=3)
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
        below = str(label).replace("-", "−")
        width = max(len(text), len(below)) * 1.02 + UNIT
        if at + width > PER_LINE:
            at, top = 0.0, top + 1.75
        trained, special = label != IGNORED, token in tokenizer.all_special_ids
        colour = TRAINED if trained else GIVEN
        frame: dict[str, Any] = {"edgecolor": "#555555", "linewidth": 0.7}
        ink: dict[str, Any] = {"color": "#777777"}
        if trained:
            frame, ink = {"edgecolor": "#000000", "linewidth": 1.3}, {"color": "#000000", "weight": "bold"}
        hatch = "////" if special else None
        box(axes, at + 0.12, top, width - 0.24, 0.8, facecolor=colour, hatch=hatch, **frame)
        middle, behind = at + width / 2, {"facecolor": colour, "edgecolor": "none", "pad": 0.8}
        behind_text = behind if special else None
        axes.text(middle, top + 0.4, text, **CENTRED, family=MONO, fontsize=8.5, bbox=behind_text)
        axes.text(middle, top + 1.08, below, **CENTRED, family=MONO, fontsize=8, **ink)
        at += width
    return top + 1.75
