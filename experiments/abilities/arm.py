"""One arm of an experiment with one seed: rows, training through the program's own `fit`, and its answers."""

import contextlib
import inspect
import shutil
from collections.abc import Mapping
from hashlib import sha256
from pathlib import Path
from typing import Any

import yaml

from experiments.abilities.ability import CONFIGS, Ability, Arm
from experiments.abilities.rows import write_rows, write_tokenizer
from experiments.atomic import write_text


def answers_file(ability: Ability, folder: Path) -> Path:
    """Where a model's answers to an experiment are."""
    return folder / f"answers-{ability.name}.jsonl"


def merged(config: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    """A nested configuration with some of its values changed."""
    result = dict(config)
    for name, value in changes.items():
        known = result.get(name)
        nested = isinstance(known, Mapping) and isinstance(value, Mapping)
        result[name] = merged(known, value) if nested else value  # type: ignore[arg-type]
    return result


def arm_config(ability: Ability, arm: Arm, seed: int, folder: Path) -> dict[str, Any]:
    """The YAML that an arm is trained with."""
    config = yaml.safe_load((CONFIGS / f"{ability.training}.yaml").read_text(encoding="utf-8"))
    config = merged(config, arm.config)
    trainer = yaml.safe_load((CONFIGS / config["trainer"]).read_text(encoding="utf-8"))
    own = {
        "seed_everything": seed,
        "run": str(folder),
        "trainer": trainer | {"max_steps": config.pop("steps")},
        "data": {
            "init_args": {
                "seed": seed,
                "train": str(folder / "rows.parquet"),
                "tokenizer": str(folder / "words"),
            }
        },
    }
    return merged(config, own)


def cost(ability: Ability, arm: Arm) -> float:
    """About what training an arm costs beside others: tokens at most, times layers."""
    config = arm_config(ability, arm, 0, CONFIGS)
    data, network = config["data"]["init_args"], config["model"]["init_args"]["config"]
    tokens = config["trainer"]["max_steps"] * data["global_batch_size"] * data["max_length"]
    return tokens * network["num_hidden_layers"]


def recipe(ability: Ability, arm: Arm, seed: int, folder: Path) -> str:
    """The YAML that an arm is trained with, and what makes its rows: of another comes another model."""
    source = Path(inspect.getfile(type(ability).rows)).read_bytes()
    config = yaml.safe_dump(arm_config(ability, arm, seed, folder), sort_keys=False)
    return f"# rows made by code of sha256 {sha256(source).hexdigest()}\n{config}"


def train(ability: Ability, arm: Arm, seed: int, folder: Path) -> None:
    """Trains an arm into `folder`, going on from its last checkpoint where it was interrupted, and from
    nothing where the recipe was another.

    Raises:
        SystemExit: the fit failed; its output says why.
    """
    from experiments.cli.program import main as program

    config, wanted = folder / "arm.yaml", recipe(ability, arm, seed, folder)
    if config.is_file() and not _is_same(config.read_text(encoding="utf-8"), wanted, folder):
        for name in ("export", "checkpoints", "metrics", "words"):
            shutil.rmtree(folder / name, ignore_errors=True)
        (folder / "rows.parquet").unlink(missing_ok=True)
    if (folder / "export" / "provenance.json").is_file():
        return
    write_text(config, wanted)
    if not (folder / "rows.parquet").is_file():
        write_tokenizer(ability.vocabulary(), folder / "words")
        write_rows(ability.rows(arm.name, seed), folder / "rows.parquet")
    arguments = ["fit", "--config", str(config)]
    if (folder / "checkpoints" / "last.ckpt").is_file():
        arguments += ["--ckpt_path", "newest"]
    elif (folder / "metrics").is_dir():
        arguments += ["--overwrite", "true"]
    if code := program(arguments):
        raise SystemExit(code)


def answer(ability: Ability, arm: Arm, folder: Path) -> None:
    """Puts the questions to a trained arm and writes what it answers."""
    from experiments.abilities.asking import Asked, save

    save(ability.ask(Asked(folder / "export"), arm.name), ability, answers_file(ability, folder))


def run(ability: Ability, arm: Arm, seed: int, folder: Path) -> bool:
    """Does what is not done yet of an arm, and says whether there was anything; what it prints goes to
    `log.txt` in its folder."""
    import torch

    if is_answered(ability, arm, seed, folder):
        return False
    torch.set_num_threads(1)
    folder.mkdir(parents=True, exist_ok=True)
    with (
        (folder / "log.txt").open("a", encoding="utf-8") as log,
        contextlib.redirect_stdout(log),
        contextlib.redirect_stderr(log),
    ):
        train(ability, arm, seed, folder)
        answer(ability, arm, folder)
    write_text(folder / f"answered-{ability.name}", _stamp(ability, arm, folder))
    return True


def is_answered(ability: Ability, arm: Arm, seed: int, folder: Path) -> bool:
    """Whether the answers in the folder are of today's recipe and items."""
    config, stamp = folder / "arm.yaml", folder / f"answered-{ability.name}"
    return (
        all(file.is_file() for file in (config, stamp, answers_file(ability, folder)))
        and _is_same(config.read_text(encoding="utf-8"), recipe(ability, arm, seed, folder), folder)
        and stamp.read_text() == _stamp(ability, arm, folder)
    )


def _is_same(before: str, recipe: str, folder: Path) -> bool:
    """Whether a recipe is that of a folder, which may have had another name before."""
    return before.replace(str(yaml.safe_load(before)["run"]), str(folder)) == recipe


def _stamp(ability: Ability, arm: Arm, folder: Path) -> str:
    """What answers belong to: the model's recipe, and the items."""
    from experiments.abilities.asking import items_sha256

    asked = items_sha256(ability.questions(arm.name))
    return sha256(((folder / "arm.yaml").read_text(encoding="utf-8") + asked).encode()).hexdigest()


def learning_curve(folder: Path, metric: str = "train/loss") -> list[tuple[int, float]]:
    """The steps of a run and a metric at each."""
    import csv

    points = []
    for file in sorted((folder / "metrics").rglob("metrics.csv")):
        with file.open(encoding="utf-8") as lines:
            rows = csv.DictReader(lines)
            points += [(int(row["step"]), float(row[metric])) for row in rows if row.get(metric)]
    return points
