"""The report's card: what the model can do as each stage left it, on five cheap tasks."""

import shutil
from typing import Any

from rich.progress import Progress

from experiments.evaluation.compare import compare
from experiments.evaluation.registry import Asked, asked
from experiments.evaluation.run import evaluate
from experiments.evaluation.show import estimate_text
from experiments.evaluation.store import Store
from experiments.quickstart.stages import FOLDER

MODELS = {"pretrained": "pretrain", "tuned": "sft", "after PPO": "ppo"}
TASKS = {  # task, one way of asking it → what the page says of its first metric
    ("sentiment", ""): "Reviews told good from bad, the likelier of two words; a coin: 0.5",
    ("choices", ""): "Multiple choice, the likeliest of four per byte; by chance: 0.25",
    ("maths", "steps-en"): "Sums and stories answered rightly, step by step",
    ("instructions", ""): "Instructions followed to the letter, one or two at a time",
    ("in-context", ""): "What the true beginning of a text helps, nats per byte; without use: 0",
}
LIMIT = 50  # items a task


def card() -> list[dict[str, Any]]:
    """A row for each task: `task`, `metric`, `items`, `estimates` (a text for each model) and `p`, McNemar's
    for the tuned against the pretrained model, adjusted over the card (None: not right or wrong)."""
    folder = FOLDER / "evaluation/abilities"
    shutil.rmtree(folder, ignore_errors=True)  # of another run's models
    tasks = []
    for name, variant in TASKS:
        task, variants = asked(name)
        tasks.append(Asked(task, {variant: variants[variant]}))
    store = Store(str(folder))
    models = {name: str(FOLDER / stage / "export") for name, stage in MODELS.items()}
    with Progress(transient=True) as progress:
        results = evaluate(models, tasks, [0], LIMIT, store, progress)
    first_two = [result for result in results if result.model in list(MODELS)[:2]]
    p_values = {each.task: each.p for each in compare(store, first_two)}
    rows = []
    for (name, _), words in TASKS.items():
        own = {result.model: result for result in results if result.task == name}
        result = next(iter(own.values()))
        metric = next(iter(result.metrics))
        estimates = {model: estimate_text(each.metrics[metric]) for model, each in own.items()}
        row = {"task": name, "metric": metric, "words": words, "items": result.items}
        rows.append({**row, "estimates": estimates, "p": p_values.get(result.label)})
    return rows
