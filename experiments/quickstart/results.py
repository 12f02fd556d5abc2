"""Measures the finished quickstart and gathers everything that its report shows."""

import csv
import json
from collections import defaultdict
from pathlib import Path
from typing import Any

from experiments.cli.parser import parse_data
from experiments.quickstart import evaluate
from experiments.quickstart.stages import BUDGETS, CONFIGS, FOLDER, predict, versions

Curves = dict[str, dict[str, list[tuple[int, float]]]]
SAMPLES = 6


def collect(folder: Path, seconds: dict[str, float], minutes: float) -> dict[str, Any]:
    """Runs every measurement, writes `report.html` and `report.json`, and returns the report."""
    from experiments.quickstart.report import write_report

    curves = {budget.name: read_curves(folder / budget.name) for budget in BUDGETS}
    measured = {"pretrain": pretraining(curves), "sft": sft(), "reward": reward(), "ppo": ppo()}
    metrics = {name: values for name, (values, _) in measured.items()}
    samples = [sample for _, found in measured.values() for sample in found]
    provenance = {name: _provenance(folder / name) for name in metrics}
    judge = metrics["ppo"]
    report = {
        "stages": {
            name: {
                "seconds": seconds.get(name, 0.0),
                "tokens": provenance[name]["tokens"],
                "metrics": values,
                "export": f"{name}/export",
            }
            for name, values in metrics.items()
        },
        "mixture": provenance["pretrain"]["mixture"],
        "judge": {
            "before": judge["judge/before"],
            "after": judge["judge/after"],
            "stderr": judge["judge/stderr"],
            "kl": judge["ppo/kl_per_sequence"],
        },
        "versions": versions(),
        "bars": bars(metrics),
        "samples": samples,
        "licences": json.loads((folder / "data" / "manifest.json").read_text())["licences"],
        "minutes": minutes,
        "total_seconds": round(sum(seconds.values()), 1),
        "command": f"trivium quickstart --minutes {minutes:g}",
    }
    write_report(report, curves, folder)
    return report


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run as (step, value); a resumed run's parts are joined."""
    points: dict[str, dict[int, float]] = defaultdict(dict)
    for file in sorted(
        run.glob("metrics/version_*/metrics.csv"), key=lambda f: int(f.parent.name.split("_")[1])
    ):
        with file.open() as lines:
            for row in csv.DictReader(lines):
                step = int(row["step"])
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        points[name][step] = float(value)
    return {name: sorted(values.items()) for name, values in points.items()}


def pretraining(curves: Curves) -> tuple[dict[str, float], list[dict[str, str]]]:
    """Validation losses beside the unigram model's, and two greedy continuations."""
    data: Any = parse_data(["fit", "--config", str(CONFIGS / "pretrain.yaml")])
    data.splits = data.read()
    unigram = evaluate.unigram_losses(data)
    metrics: dict[str, float] = {}
    for name, baseline in unigram.items():
        loss = curves["pretrain"][f"val/loss/{name}"][-1][1]
        metrics |= {
            f"val/loss/{name}": loss,
            f"unigram/{name}": baseline,
            f"improvement/{name}": baseline - loss,
        }
    return metrics, evaluate.continuations(str(FOLDER / "pretrain/export"), data)


def sft() -> tuple[dict[str, float], list[dict[str, str]]]:
    """Reply losses before and after, and the greedy replies of both models to held-out prompts."""
    data: Any = parse_data(["fit", "--config", str(CONFIGS / "sft.yaml")])
    data.splits = data.read()
    before = evaluate.reply_losses(str(FOLDER / "pretrain/export"), data)
    after = evaluate.reply_losses(str(FOLDER / "sft/export"), data)
    metrics = {f"sft/loss_before/{task}": loss for task, loss in before.items()}
    metrics |= {f"sft/loss_after/{task}": loss for task, loss in after.items()}
    metrics["sft/mean_improvement"] = 1 - sum(after.values()) / sum(before.values())
    metrics["sft/least_improvement"] = min(1 - after[task] / before[task] for task in after)
    rows = evaluate.read_rows(FOLDER / "data/instructions/val.jsonl")
    replies = {name: _replies(name) for name in ("pretrain", "sft")}
    metrics["sft/eos_share"] = sum(row["ended"] for row in replies["sft"]) / len(replies["sft"])
    sums = [row for row in replies["sft"] if rows[row["row"]]["task"] == "sums"]
    answers = [rows[row["row"]]["output"] for row in sums]
    metrics["sft/sums_right"] = evaluate.share_right([row["reply"] for row in sums], answers)
    samples, seen = [], set()
    for old, new in zip(replies["pretrain"], replies["sft"], strict=True):
        row = rows[new["row"]]
        if (row["task"], row["language"]) in seen:
            continue
        seen.add((row["task"], row["language"]))
        prompt = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        note = f"expected: {row['output']}"
        samples.append(
            {"stage": "sft", "prompt": prompt, "before": old["reply"], "after": new["reply"], "note": note}
        )
    return metrics, samples


def _replies(stage: str) -> evaluate.Rows:
    checkpoint = str(FOLDER / stage / "export")
    return evaluate.read_rows(
        predict("sft", f"evaluation/{stage}", "--model.init_args.pretrained", checkpoint)
    )


def reward() -> tuple[dict[str, float], list[dict[str, str]]]:
    """Accuracy on held-out pairs, beside the lexicon's, and the best and the worst of some held-out
    reviews."""
    checkpoint = str(FOLDER / "reward/export")
    predictions = evaluate.read_rows(
        predict("reward", "evaluation/reward", "--model.init_args.pretrained", checkpoint)
    )
    rows = evaluate.read_rows(FOLDER / "data/preferences/val.jsonl")
    metrics = evaluate.reward_accuracy(predictions, rows)
    samples = []
    for found in predictions[: SAMPLES // 2]:
        row = rows[found["row"]]
        ranked = sorted(zip(found["scores"], row["ratings"], row["replies"], strict=True))
        lines = [f"{reply}  (score {score:+.2f}, people {rating:+.1f})" for score, rating, reply in ranked]
        samples.append(
            {
                "stage": "reward",
                "prompt": row["instruction"],
                "before": lines[0],
                "after": lines[-1],
                "note": "",
            }
        )
    return metrics, samples


def ppo() -> tuple[dict[str, float], list[dict[str, str]]]:
    """The judge's view of continuations of the same held-out openings before and after PPO."""
    before = evaluate.read_rows(predict("ppo", "evaluation/ppo_before"))
    actor, reference = str(FOLDER / "ppo/export"), str(FOLDER / "sft/export")
    after = evaluate.read_rows(
        predict(
            "ppo",
            "evaluation/ppo_after",
            "--model.init_args.actor",
            actor,
            "--model.init_args.reference",
            reference,
        )
    )
    rows = evaluate.read_rows(FOLDER / "data/prompts/val.jsonl")
    samples = [
        {
            "stage": "ppo",
            "prompt": rows[new["row"]]["reply_prefix"],
            "before": old["response"],
            "after": new["response"],
            "note": f"score {old['score']:+.2f} → {new['score']:+.2f}",
        }
        for old, new in list(zip(before, after, strict=True))[:SAMPLES]
    ]
    return evaluate.judge_responses(before, after), samples


def bars(metrics: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What the quickstart promises, beside what was measured."""
    pre, tuned, ranked, ppo = (metrics[name] for name in ("pretrain", "sft", "reward", "ppo"))
    gain = (ppo["judge/after"] - ppo["judge/before"]) / max(ppo["judge/stderr"], 1e-12)
    length = ppo["judge/length_after"] / ppo["judge/length_before"]
    bigrams = ppo["judge/distinct_bigrams_after"] / ppo["judge/distinct_bigrams_before"]
    rows: list[tuple[str, str, float, float, bool, str]] = [
        (
            "pretrain",
            f"below a unigram model, {source}",
            pre[f"improvement/{source}"],
            least,
            True,
            "nats per token",
        )
        for source, least in {"english": 1.2, "code": 1.2, "maths": 1.2, "chinese": 0.7}.items()
    ]
    rows += [
        (
            "sft",
            "held-out reply loss, lower on average by",
            100 * tuned["sft/mean_improvement"],
            15,
            True,
            "%",
        ),
        (
            "sft",
            "held-out reply loss, least improved task",
            100 * tuned["sft/least_improvement"],
            0,
            True,
            "%",
        ),
        ("sft", "greedy replies that end by themselves", 100 * tuned["sft/eos_share"], 95, True, "%"),
        ("reward", "held-out pairs ranked as people do", ranked["reward/accuracy"], 0.70, True, ""),
        ("ppo", "judge's gain in standard errors", gain, 4, True, ""),
        ("ppo", "KL to the SFT model", ppo["ppo/kl_per_sequence"], 15, False, "nats per sequence"),
        ("ppo", "responses that end by themselves", ppo["ppo/eos_share"], 0.9, True, ""),
        ("ppo", "distinct bigrams, after / before", bigrams, 0.8, True, ""),
        ("ppo", "mean length, after / before, at least", length, 0.5, True, ""),
        ("ppo", "mean length, after / before, at most", length, 2.0, False, ""),
    ]
    keys = ("stage", "name", "value", "bar", "at_least", "unit")
    return [{**dict(zip(keys, row, strict=True)), "note": ""} for row in rows]


def _provenance(run: Path) -> dict[str, Any]:
    return json.loads((run / "export" / "provenance.json").read_text())
