"""Draws the picture of `strategies.md` from the plan's own numbers.

LLaMA 7B on four GPUs. What a colour says, a hatch and a name say too.
"""

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import yaml
from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.patches import Patch

from experiments.docs.drawing import CENTRED, DARK, LIGHT, MIDDLE, STYLE, WIDTH, box, save
from experiments.plan.config import Run, read_run
from experiments.plan.estimate import estimate_memory
from experiments.plan.memory import MemoryEstimate
from experiments.plan.parallelism import ALL_STATES, Parallelism
from experiments.plan.strategies_memory import DDP, FSDP2, TensorParallel, ZeRO1, ZeRO2, ZeRO3
from experiments.plan.units import size

RANKS, MEMORY = 4, 80e9  # bytes of a GPU
LLAMA_7B = {
    "model_type": "llama", "hidden_size": 4096, "intermediate_size": 11008, "num_hidden_layers": 32,
    "num_attention_heads": 32, "num_key_value_heads": 32, "vocab_size": 32000,
}  # fmt: skip
PARALLELISMS = {
    "ddp": DDP(RANKS),
    "ZeRO-1": ZeRO1(RANKS),
    "ZeRO-2": ZeRO2(RANKS),
    "ZeRO-3": ZeRO3(RANKS),
    "fsdp": FSDP2(RANKS),
    "tensor": TensorParallel(1, RANKS),
}
PARTS: dict[str, tuple[str, str]] = {  # colour and hatch
    "weights": (DARK, ""),
    "gradients": (MIDDLE, ""),
    "optimizer": (LIGHT, ""),
    "activations": ("#d9d9d9", "////"),
    "buffers": ("#f4f4f4", "...."),
}

LABELS = {"buffers": "buffers and logits"}


def main(folder: str) -> list[Path]:
    """Writes the picture; returns its file."""
    with rc_context(STYLE):
        return save({"strategies.png": strategies(_run())}, Path(folder))


def _run() -> Run:
    """Two micro-batches of a row of 2048 tokens on every rank, in bf16-mixed."""
    data = {"sources": {"text": {"train": "text.jsonl"}}, "tokenizer": "none", "sequence_length": 2048}
    batch = {"micro_batch_size": 1, "global_batch_size": 2 * RANKS}
    run = {
        "trainer": {"precision": "bf16-mixed"},
        "model": {"class_path": "modules.CausalLM", "init_args": {"config": LLAMA_7B}},
        "data": {"class_path": "datamodules.MixedCorpusData", "init_args": {**data, **batch}},
    }
    with TemporaryDirectory() as folder:
        file = Path(folder) / "run.yaml"
        file.write_text(yaml.safe_dump(run))
        return read_run([str(file)], [], RANKS)


def strategies(run: Run) -> Figure:
    """Above, which part of the states each rank holds; below, all that a rank needs."""
    estimates = {name: estimate_memory(run, each) for name, each in PARALLELISMS.items()}
    figure = Figure(figsize=(WIDTH, 6.2))
    grid = figure.add_gridspec(
        2, len(PARALLELISMS), height_ratios=(1.5, 1), hspace=0.36, wspace=0.18,
        left=0.1, right=0.98, top=0.875, bottom=0.11,
    )  # fmt: skip
    figure.text(0.012, 0.962, "Which states each of four ranks holds", weight="bold", fontsize=10.5)
    for column, (name, estimate) in enumerate(estimates.items()):
        axes = figure.add_subplot(grid[0, column])
        _holdings(axes, name, PARALLELISMS[name], estimate)
    whole = estimates["ddp"].states
    figure.axes[0].set_ylabel(f"all states of LLaMA 7B: {size(whole, 3)}")
    _needs(figure.add_subplot(grid[1, :]), estimates)
    handles = [
        Patch(facecolor=colour, hatch=hatch, edgecolor="#888888", linewidth=0.5, label=LABELS.get(part, part))
        for part, (colour, hatch) in PARTS.items()
    ]
    figure.legend(handles=handles, loc="lower center", ncols=6, handlelength=1.6, columnspacing=1.6)
    return figure


def _holdings(axes: Axes, name: str, parallelism: Parallelism, estimate: MemoryEstimate) -> None:
    """A column for each rank as high as all states; its own part of them is filled."""
    split = parallelism.sharded
    bottom = 0.0
    for part in ALL_STATES:
        height = getattr(estimate, part) * (RANKS if part in split else 1) / 1e9
        for rank in range(RANKS):
            share = height / RANKS if part in split else height
            top = bottom + (rank * share if part in split else 0)
            box(axes, rank + 0.06, bottom, 0.88, height, facecolor="#f4f4f4", linewidth=0)
            box(axes, rank + 0.06, top, 0.88, share, facecolor=PARTS[part][0], linewidth=0)
        bottom += height
    axes.set(xlim=(0, RANKS), ylim=(bottom * 1.001, 0))
    axes.set_title(name, loc="center", pad=20)
    axes.text(RANKS / 2, -bottom * 0.035, size(estimate.states, 3), **CENTRED, color="#444444")
    axes.set_xticks([rank + 0.5 for rank in range(RANKS)], [str(rank) for rank in range(RANKS)])
    axes.set_yticks([])
    axes.tick_params(length=0)
    for side in axes.spines.values():
        side.set_visible(False)


def _needs(axes: Axes, estimates: dict[str, MemoryEstimate]) -> None:
    """A bar for each strategy: what a rank needs at its fullest, against what a GPU has."""
    for row, estimate in enumerate(estimates.values()):
        left = 0.0
        for part, (colour, hatch) in PARTS.items():
            width = (getattr(estimate, part) + (estimate.logits if part == "buffers" else 0)) / 1e9
            drawn: dict[str, Any] = {"facecolor": colour, "hatch": hatch, "edgecolor": "#888888"}
            axes.barh(row, width, left=left, height=0.68, linewidth=0.4, **drawn)
            left += width
        axes.text(left + 1, row, f"{left:.0f}", va="center", color="#444444")
    axes.axvline(MEMORY / 1e9, color="#b00020", linewidth=1.2, linestyle="dashed", zorder=0)
    axes.text(MEMORY / 1e9 + 0.8, -0.75, f"a GPU of {size(MEMORY)}", color="#b00020", va="center")
    axes.set_yticks(range(len(estimates)), list(estimates))
    axes.tick_params(axis="y", length=0)
    axes.set_ylim(len(estimates) - 0.5, -1.1)
    axes.set_xlim(0, 1.08 * max(estimate.peak for estimate in estimates.values()) / 1e9)
    axes.set_title("What a rank needs at its fullest, GB", pad=6)
