"""Measures the finished quickstart and gathers everything that its page shows."""

import csv
import json
import time
from collections import defaultdict
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from experiments.cli.parser import parse_data
from experiments.quickstart import evaluate
from experiments.quickstart.abilities import card
from experiments.quickstart.pace import BUDGETS
from experiments.quickstart.page import write_report
from experiments.quickstart.picture import draw
from experiments.quickstart.stages import CONFIGS, FOLDER, predict, read_rows

Curves = dict[str, dict[str, list[tuple[int, float]]]]
Measured = tuple[dict[str, float], list[dict[str, str]]]
"""metrics by name, and samples of what models wrote"""
SAMPLES = 6  # of what a stage wrote
NATS = "nats per token"
PACKAGES = ("torch", "lightning", "transformers", "datasets", "deepspeed", "tokenizers", "wandb")


def collect(state: dict[str, Any]) -> dict[str, Any]:
    """Runs every measurement, writes `report.html`, `.json` and `.png`, and returns the report, which also
    says what each part took, in seconds, how many steps were chosen, at which pace, and the budget, in
    minutes."""
    began, seconds = time.perf_counter(), state["seconds"]
    curves = {budget.name: read_curves(FOLDER / budget.name) for budget in BUDGETS}
    measured = {"pretrain": pretraining(curves), "sft": sft(), "reward": reward(), "ppo": ppo()}
    metrics = {name: values for name, (values, _) in measured.items()}
    provenance = {name: _read_json(f"{name}/export/provenance.json") for name in metrics}
    steps = ",".join(str(each["steps"]) for each in provenance.values())
    judge = metrics["ppo"]
    report = {
        "stages": {
            name: {
                "seconds": seconds.get(name, 0.0),
                "steps": provenance[name]["steps"],
                "seconds_per_step": state["pace"].get(name),
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
        "versions": {name: version(name) for name in PACKAGES},
        "bars": bars(metrics),
        "abilities": card(),
        "samples": [sample for _, samples in measured.values() for sample in samples],
        "licences": _read_json("data/manifest.json")["licences"],
        "minutes": state["minutes"],
        "precision": yaml.safe_load((FOLDER / "sft/config.yaml").read_text())["trainer"]["precision"],
        "total_seconds": round(sum(seconds.values()) + time.perf_counter() - began, 1),
        "command": f"trivium quickstart --minutes {state['minutes']:g}",
        "repeat": f"trivium quickstart --steps {steps}",
    }
    write_report(report, curves, FOLDER)
    draw(report, curves, FOLDER / "report.png")
    return report


def read_curves(run: Path) -> dict[str, list[tuple[int, float]]]:
    """Every metric of a run as (step, value); a resumed run's parts are joined."""
    points: dict[str, dict[int, float]] = defaultdict(dict)
    files = run.glob("metrics/version_*/metrics.csv")
    for file in sorted(files, key=lambda file: int(file.parent.name.split("_")[1])):
        with file.open() as lines:
            for row in csv.DictReader(lines):
                step = int(row["step"])
                for name, value in row.items():
                    if value and name not in ("step", "epoch"):
                        points[name][step] = float(value)
    return {name: sorted(values.items()) for name, values in points.items()}


def pretraining(curves: Curves) -> Measured:
    """Validation losses beside the unigram model's, and two greedy continuations."""
    data: Any = parse_data(["fit", "--config", str(CONFIGS / "pretrain.yaml")])
    data.splits = data.read()
    metrics: dict[str, float] = {}
    for name, baseline in evaluate.unigram_losses(data).items():
        loss = curves["pretrain"][f"val/loss/{name}"][-1][1]
        metrics[f"val/loss/{name}"] = loss
        metrics[f"unigram/{name}"] = baseline
        metrics[f"improvement/{name}"] = baseline - loss
    return metrics, evaluate.continuations(str(FOLDER / "pretrain/export"), data)


def sft() -> Measured:
    """Reply losses before and after, and the greedy replies of both models to held-out prompts."""
    data: Any = parse_data(["fit", "--config", str(CONFIGS / "sft.yaml")])
    data.splits = data.read()
    before = evaluate.reply_losses(str(FOLDER / "pretrain/export"), data)
    after = evaluate.reply_losses(str(FOLDER / "sft/export"), data)
    metrics = {f"sft/loss_before/{task}": loss for task, loss in before.items()}
    metrics |= {f"sft/loss_after/{task}": loss for task, loss in after.items()}
    metrics["sft/mean_improvement"] = 1 - sum(after.values()) / sum(before.values())
    metrics["sft/least_improvement"] = min(1 - after[task] / before[task] for task in after)
    rows = read_rows("data/instructions/val.jsonl")
    replies = {
        stage: predict("sft", f"evaluation/{stage}", pretrained=f"{stage}/export")
        for stage in ("pretrain", "sft")
    }
    metrics["sft/eos_share"] = sum(row["ended"] for row in replies["sft"]) / len(replies["sft"])
    sums = [row for row in replies["sft"] if rows[row["row"]]["task"] == "sums"]
    answers = [rows[row["row"]]["output"] for row in sums]
    metrics["sft/sums_right"] = evaluate.share_right([row["reply"] for row in sums], answers)
    samples: dict[tuple[str, str], dict[str, str]] = {}
    for old, new in zip(replies["pretrain"], replies["sft"], strict=True):
        row = rows[new["row"]]
        prompt = "\n".join(part for part in (row["instruction"], row["input"]) if part)
        sample = _sample("sft", prompt, old["reply"], new["reply"], f"expected: {row['output']}")
        samples.setdefault((row["task"], row["language"]), sample)
    return metrics, list(samples.values())


def reward() -> Measured:
    """Accuracy on held-out pairs, beside the lexicon's; the best and the worst of some held-out reviews."""
    predictions = predict("reward", "evaluation/reward", pretrained="reward/export")
    rows = read_rows("data/preferences/val.jsonl")
    samples = []
    for prediction in predictions[: SAMPLES // 2]:
        row = rows[prediction["row"]]
        ranked = sorted(zip(prediction["scores"], row["ratings"], row["replies"], strict=True))
        lines = [f"{reply}  (score {score:+.2f}, people {rating:+.1f})" for score, rating, reply in ranked]
        samples.append(_sample("reward", row["instruction"], lines[0], lines[-1]))
    return evaluate.reward_accuracy(predictions, rows), samples


def ppo() -> Measured:
    """The judge's view of continuations of the same held-out openings before and after PPO."""
    before = predict("ppo", "evaluation/ppo_before")
    after = predict("ppo", "evaluation/ppo_after", actor="ppo/export", reference="sft/export")
    rows = read_rows("data/prompts/val.jsonl")
    samples = []
    for old, new in list(zip(before, after, strict=True))[:SAMPLES]:
        prompt, note = rows[new["row"]]["reply_prefix"], f"score {old['score']:+.2f} → {new['score']:+.2f}"
        samples.append(_sample("ppo", prompt, old["response"], new["response"], note))
    return evaluate.judge_responses(before, after), samples


def bars(metrics: dict[str, dict[str, float]]) -> list[dict[str, Any]]:
    """What the quickstart promises, beside what was measured."""
    pretrain, sft, reward, ppo = (metrics[name] for name in ("pretrain", "sft", "reward", "ppo"))
    gain = (ppo["judge/after"] - ppo["judge/before"]) / max(ppo["judge/stderr"], 1e-12)
    length = ppo["judge/length_after"] / ppo["judge/length_before"]
    bigrams = ppo["judge/distinct_bigrams_after"] / ppo["judge/distinct_bigrams_before"]
    kl = ppo["ppo/kl_per_sequence"]
    below_unigram = {"english": 1.2, "code": 1.2, "maths": 1.2, "chinese": 0.7}  # nats per token, at least
    return [
        *(
            _bar("pretrain", f"below a unigram model, {name}", pretrain[f"improvement/{name}"], least, NATS)
            for name, least in below_unigram.items()
        ),
        _bar("sft", "held-out reply loss, lower on average by", 100 * sft["sft/mean_improvement"], 15, "%"),
        _bar("sft", "held-out reply loss, least improved task", 100 * sft["sft/least_improvement"], 0, "%"),
        _bar("sft", "greedy replies that end by themselves", 100 * sft["sft/eos_share"], 95, "%"),
        _bar("reward", "held-out pairs ranked as people do", reward["reward/accuracy"], 0.70),
        _bar("ppo", "judge's gain in standard errors", gain, 4),
        _bar("ppo", "KL to the SFT model", kl, 15, "nats per sequence", at_least=False),
        _bar("ppo", "responses that end by themselves", ppo["ppo/eos_share"], 0.9),
        _bar("ppo", "distinct bigrams, after / before", bigrams, 0.8),
        _bar("ppo", "mean length, after / before, at least", length, 0.5),
        _bar("ppo", "mean length, after / before, at most", length, 2.0, at_least=False),
    ]


def _bar(
    stage: str, name: str, value: float, bar: float, unit: str = "", at_least: bool = True
) -> dict[str, Any]:
    """A promise of the quickstart: the value that was measured, and the bar it must reach or stay below."""
    kept = {"stage": stage, "name": name, "value": value, "bar": bar}
    return {**kept, "at_least": at_least, "unit": unit, "note": ""}


def _sample(stage: str, prompt: str, before: str, after: str, note: str = "") -> dict[str, str]:
    return {"stage": stage, "prompt": prompt, "before": before, "after": after, "note": note}


def _read_json(name: str) -> dict[str, Any]:
    return json.loads((FOLDER / name).read_text())
