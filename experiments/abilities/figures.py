"""Which charts each experiment has on the page, from its results and its models' learning curves."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from markupsafe import Markup

from experiments.abilities.arm import learning_curve
from experiments.abilities.pictures import Charts

Figure = tuple[str, Markup, str]  # title, chart, what to look at


def figures(
    name: str, results: Mapping[str, Any], folders: Mapping[str, Sequence[Path]], draw: Charts
) -> list[Figure]:
    """The charts of an experiment.

    Args:
        results: as its `finding` gives them.
        folders: arm → the folders of its seeds.
    """
    make = {
        "emergence": _emergence,
        "in-context": _in_context,
        "instructions": _instructions,
        "chain-of-thought": _chain_of_thought,
        "retrieval": _retrieval,
        "restriction": _restriction,
    }[name]
    return make(results, folders, draw)


Folders = Mapping[str, Sequence[Path]]


def _emergence(results: Mapping[str, Any], folders: Folders, draw: Charts) -> list[Figure]:
    sizes = dict(zip(results["widths"], results["parameters"], strict=True))
    exact = {sizes[int(width)]: seeds for width, seeds in results["seeds"].items()}
    names = ("exact", "digits")
    both = {name: {sizes[w]: [v] for w, v in zip(sizes, results[name], strict=True)} for name in names}
    loss = {"loss": {sizes[w]: [v] for w, v in zip(sizes, results["nll"], strict=True)}}
    sudden = results["breakthroughness"]
    return [
        (
            "Exact match by size, every seed a dot",
            draw.curves(
                {"exact": exact}, "Exact match by size", "share of sums", "parameters", logarithmic=True
            ),
            "Dots far apart at one size: seeds succeed or fail, none is half able.",
        ),
        (
            "Is it only the metric?",
            draw.curves(both, "Exact match and digits by size", "share", "parameters", logarithmic=True),
            f"Breakthroughness: exact match {_sudden(sudden['exact'])}, digits {_sudden(sudden['digits'])}.",
        ),
        (
            "The loss on the same answers",
            draw.curves(loss, "Loss by size", "nats a digit", "parameters", logarithmic=True),
            f"Breakthroughness of the loss {_sudden(sudden['nll'])}: it has its plateaus and its fall too.",
        ),
    ]


def _sudden(value: float | None) -> str:
    """Breakthroughness for people; it is infinite where most steps of a curve are 0."""
    return "infinite" if value is None else f"{value:.3g}"


def _in_context(results: Mapping[str, Any], folders: Folders, draw: Charts) -> list[Figure]:
    arms = ("two layers", "one layer")
    shots = [name.split(", ")[1].split()[0] for name in results if name.startswith(arms[0])]
    curves = {arm: {k: [results[f"{arm}, {k} examples"][0]] for k in shots} for arm in arms}
    rows = {
        "model": results["kl"], "counting": results["kl_unigram"],
        "seldom seen": results["kl_early"], "often seen": results["kl_late"],
    }  # fmt: skip
    learning = {
        arm: {step: [loss] for step, loss in learning_curve(folders[arm][0])}
        for arm in arms
        if folders.get(arm)
    }
    return [
        (
            "Right answers by the number of examples",
            draw.curves(curves, "Right answers by examples", "share right", "examples in the prompt"),
            "Without an example, chance: one in eight.",
        ),
        (
            "A phase change in training",
            draw.curves(learning, "Training loss", "nats a label", "optimizer step"),
            "The loss stays at counting colours, then falls at once: the model has learnt to look back.",
        ),
        (
            "Chains: distance to the best prediction",
            draw.rates(rows, "Divergence from the best", "nats a symbol", share=False),
            "The model and a predictor that only counts symbols; the model where the symbol before was "
            "seen at most once, and eight times or more.",
        ),
    ]


def _instructions(results: Mapping[str, Any], folders: Folders, draw: Charts) -> list[Figure]:
    points = {int(arm.split()[0]): [value[0]] for arm, value in results.items()}
    rows = {f"{count:,} trained": results[f"{count} rules"] for count in points}
    return [
        (
            "New instructions followed, by how many were trained",
            draw.curves(
                {"held out": points},
                "New instructions followed",
                "share right",
                "training instructions",
                True,
            ),
            "Each model saw as many examples; only their variety differs.",
        ),
        (
            "The same with intervals",
            draw.rates(rows, "New instructions followed", "share right"),
            "Intervals hold 95 %.",
        ),
    ]


def _chain_of_thought(results: Mapping[str, Any], folders: Folders, draw: Charts) -> list[Figure]:
    lines = {
        "in steps": "both: steps",
        "at once": "both: direct",
        "dots": "dots: dots",
        "direct only": "direct: direct",
    }
    lengths = (2, 4, 6, 8)
    curves = {name: {n: [results[f"{key} {n}"][0]] for n in lengths} for name, key in lines.items()}
    followed = {f"{n} operations": results[f"both: corrupted {n}"] for n in lengths}
    return [
        (
            "Right answers by the length of the program",
            draw.curves(curves, "Right answers by length", "share right", "operations"),
            "At once, chance is one in eleven from four operations on.",
        ),
        (
            "A wrong step is followed",
            draw.rates(followed, "Answers that follow from a planted wrong result", "share of answers"),
            "Share of answers that follow from a wrong result written into the middle of the steps.",
        ),
    ]


def _retrieval(results: Mapping[str, Any], folders: Folders, draw: Charts) -> list[Figure]:
    names = {
        "known, no passage": "known, none, free", "unseen, no passage": "unseen, none, free",
        "unseen, right one": "unseen, gold, free", "unseen, wrong ones": "unseen, wrong, free",
        "unseen, BM25": "BM25, all", "BM25 in 70 %": "BM25, 70 %",
    }  # fmt: skip
    crowd = {int(n.split()[-1]): [v[0]] for n, v in results.items() if n.startswith("gold among")}
    against = {f"{who}": results[f"{who}, counterfactual, free"] for who in ("known", "unseen")}
    return [
        (
            "Right answers",
            draw.rates(
                {label: results[name] for label, name in names.items()}, "Right answers", "share right"
            ),
            f"With 70 % of the passages, {results['predicted, 70 %']:.1%} were predicted: "
            "recall × reading + the rest.",
        ),
        (
            "The right passage among others",
            draw.curves(
                {"right": crowd}, "Right answers by passages", "share right", "passages in the prompt"
            ),
            "One to five were trained.",
        ),
        (
            "A passage that contradicts",
            draw.rates(against, "Answers that follow a counterfactual passage", "share of answers"),
            "Share of answers that follow the passage, for people whom the weights know, and for others.",
        ),
    ]


def _restriction(results: Mapping[str, Any], folders: Folders, draw: Charts) -> list[Figure]:
    made_up = {
        f"{mode}, {where}": results[f"made up: unseen, {context}, {mode}"]
        for context, where in (("wrong", "not told"), ("gold", "told"))
        for mode in ("free", "restricted", "held-out")
    }
    refused = {
        f"{mode}, {where}": results[f"refused: unseen, {context}, {mode}"]
        for context, where in (("wrong", "not told"), ("gold", "told"))
        for mode in ("restricted", "held-out")
    }
    risk = {float(share): [value] for share, value in results["risk by coverage"].items()}
    area = results["AUROC of entropy, untold against told"]
    return [
        (
            "Made-up answers",
            draw.rates(made_up, "Made-up answers", "share of answers"),
            "By how the question is put, and whether the passages tell.",
        ),
        (
            "Refusals",
            draw.rates(refused, "Refusals", "share of answers"),
            "Right where the passages do not tell; over-refusal where they do.",
        ),
        (
            "Risk by coverage, without restriction",
            draw.curves({"wrong": risk}, "Risk by coverage", "share wrong", "share answered, surest first"),
            f"Half of the questions cannot be answered. AUROC of the first word’s entropy {area:.3f}.",
        ),
    ]
