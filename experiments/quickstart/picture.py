"""`report.png`: a finished quickstart in one picture, the one that the README shows; and each stage by
itself, for the book."""

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from matplotlib import rc_context
from matplotlib.axes import Axes
from matplotlib.figure import Figure

from experiments.html.pictures import COLOURS, MUTED, STYLE
from experiments.quickstart.page import Curve, duration, running_mean, verdict

SIZE, ALONE, DPI = (12, 7.2), (8, 4.2), 100  # inches, pixels an inch


def draw(report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Curve]], file: Path) -> None:
    """Draws the four stages, by what `report.json` holds and the curves of each, and says how many bars the
    run has met."""
    verdicts = [verdict(bar) for bar in report["bars"]]
    title = (
        f"trivium quickstart: {verdicts.count('met')} of {len(verdicts)} bars met "
        f"in {duration(report['total_seconds'])}"
    )
    panels = _panels(report, curves)
    with rc_context(STYLE):
        figure = Figure(figsize=SIZE, dpi=DPI, layout="constrained")
        figure.suptitle(title, x=0.01, ha="left", fontsize=16, fontweight="bold")
        for axes, panel in zip(figure.subplots(2, 2).flat, panels.values(), strict=True):
            panel(axes)
        figure.savefig(file, metadata={"Software": None})


def draw_stages(
    report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Curve]], folder: Path
) -> list[Path]:
    """Draws each stage by itself, as `report-STAGE.png`; returns the files."""
    files = []
    with rc_context(STYLE):
        for name, panel in _panels(report, curves).items():
            figure = Figure(figsize=ALONE, dpi=DPI, layout="constrained")
            panel(figure.subplots())
            files.append(folder / f"report-{name}.png")
            figure.savefig(files[-1], metadata={"Software": None})
    return files


def _panels(
    report: Mapping[str, Any], curves: Mapping[str, Mapping[str, Curve]]
) -> dict[str, Callable[[Axes], None]]:
    """Stage → what draws it."""
    metrics = {name: stage["metrics"] for name, stage in report["stages"].items()}
    return {
        "pretrain": lambda axes: _pretraining(axes, curves["pretrain"], metrics["pretrain"]),
        "sft": lambda axes: _tuning(axes, metrics["sft"]),
        "reward": lambda axes: _ranking(axes, metrics["reward"]),
        "ppo": lambda axes: _reinforcing(axes, curves["ppo"], report["judge"]),
    }


def _pretraining(axes: Axes, curves: Mapping[str, Curve], metrics: Mapping[str, float]) -> None:
    axes.set_title("1  Pretraining: held-out loss by source, nats per token")
    sources = [name.removeprefix("unigram/") for name in metrics if name.startswith("unigram/")]
    for colour, source in zip(COLOURS, sources, strict=False):
        steps, losses = zip(*curves[f"val/loss/{source}"], strict=True)
        gain = metrics[f"improvement/{source}"]
        axes.plot(steps, losses, "o-", color=colour, markersize=4)
        axes.annotate(
            f"{source}\n−{gain:.2f}",
            (steps[-1], losses[-1]),
            (6, -6),
            textcoords="offset points",
            color=colour,
            bbox={"facecolor": "white", "edgecolor": "none", "pad": 1},  # a dotted line may pass there
            zorder=2.2,  # over lines, under the frame
        )
        axes.axhline(metrics[f"unigram/{source}"], color=colour, linestyle=":", linewidth=1)
    axes.margins(x=0.16)  # room for the names at the curves' ends
    axes.set_xlabel("optimizer step; dotted: a unigram model; below the name: how far under it")


def _tuning(axes: Axes, metrics: Mapping[str, float]) -> None:
    axes.set_title("2  Fine-tuning: held-out loss of replies, by task")
    tasks = [name.removeprefix("sft/loss_after/") for name in metrics if name.startswith("sft/loss_after/")]
    before, after = ([metrics[f"sft/loss_{when}/{task}"] for task in tasks] for when in ("before", "after"))
    rows = range(len(tasks))
    axes.hlines(rows, after, before, color="#cbd5e1", linewidth=4)
    axes.plot(before, rows, "o", color=MUTED, label="before")
    axes.plot(after, rows, "o", color=COLOURS[0], label="after")
    axes.set_yticks(rows, tasks)
    axes.invert_yaxis()
    axes.set_xlim(left=0)
    axes.set_xlabel("nats per token")
    axes.legend()


def _ranking(axes: Axes, metrics: Mapping[str, float]) -> None:
    axes.set_title("3  Reward model: held-out pairs ranked as people do")
    for row, (kind, colour) in enumerate((("reward", COLOURS[2]), ("vader", MUTED))):
        share, error = metrics[f"{kind}/accuracy"], metrics[f"{kind}/accuracy_stderr"]
        axes.barh(row, share, height=0.5, color=colour, xerr=2 * error)
        axes.text(0.02, row, f"{share:.1%}", color="white", va="center", fontweight="bold")
    axes.axvline(0.5, color="#111827", linestyle=":", linewidth=1)
    axes.set_yticks([0, 1], ["reward model", "a lexicon"])
    axes.set(ylim=(1.6, -0.6), xlim=(0, 1))
    axes.set_xlabel("share of pairs that people rated 1 or more apart; dotted: chance; ± 2 standard errors")


def _reinforcing(axes: Axes, curves: Mapping[str, Curve], judge: Mapping[str, float]) -> None:
    gain = (judge["after"] - judge["before"]) / max(judge["stderr"], 1e-12)
    axes.set_title("4  PPO: the reward model's mean score")
    iterations, scores = zip(*curves["ppo/score"], strict=True)
    axes.plot(iterations, running_mean(scores), "o-", color=COLOURS[3], markersize=4)
    lines = (
        f"an independent judge: {judge['before']:.2f} → {judge['after']:.2f}",
        f"({gain:+.1f} standard errors)",
        f"KL to the SFT model: {judge['kl']:.1f} nats",
    )
    axes.text(0.02, 0.96, "\n".join(lines), transform=axes.transAxes, va="top")
    axes.set(xlabel="iteration", ylabel="score")
