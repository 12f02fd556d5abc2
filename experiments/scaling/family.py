"""A family of sizes and what each is trained on: the YAML of `trivium scaling run`, and its runs."""

import json
import logging
import os
import re
from collections.abc import Sequence
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli.config_files import read_yaml
from experiments.cli.user_errors import UserError
from experiments.plan.scaling import forward_flops_per_token, training_flops
from experiments.plan.units import number

QUICK = Path(__file__).resolve().parent.parent / "configs" / "scaling" / "quick.yaml"
KEYS = (
    "folder",
    "stage",
    "sizes",
    "budgets",
    "learning_rate",
    "warmup_steps",
    "decay_share",
    "min_lr_ratio",
    "precision",
)


class Rate(NamedTuple):
    """The peak learning rate of a size: peak · (hidden size / width)^power."""

    peak: float
    width: float
    power: float

    def of(self, hidden: int) -> float:
        return float(f"{self.peak * (hidden / self.width) ** self.power:.4g}")

    def __str__(self) -> str:
        return f"{self.peak:g} · (hidden_size / {self.width:g})^{self.power:g}"


class Family(NamedTuple):
    """What the YAML says."""

    folder: Path
    stage: Path  # the YAML of a pretraining run
    sizes: dict[str, dict[str, Any]]  # name → what it has of its own in model.config
    budgets: tuple[float, ...]  # FLOPs, ascending
    rate: Rate
    warmup_steps: int
    decay_share: float
    min_lr_ratio: float
    precision: str  # the trainer's


class Size(NamedTuple):
    """A size of the family."""

    name: str
    options: tuple[str, ...]  # of `trivium fit`: what all its runs have in common
    learning_rate: float  # the peak
    parameters: int  # all, tied ones once
    without_embeddings: int  # less those of embeddings and head
    forward_flops: int  # of a token, attention and head too
    step_tokens: int
    accumulate: int  # micro-batches of an optimizer step
    digest: str  # of all that the options resolve to


class Point(NamedTuple):
    """A size trained at a budget."""

    size: Size
    budget: float  # FLOPs
    steps: int
    trunk_steps: int
    """as far as it has the peak rate, and all longer runs of the size are the same"""

    @property
    def name(self) -> str:
        return f"{self.size.name}-{short(self.budget)}"

    @property
    def tokens(self) -> int:
        return self.steps * self.size.step_tokens

    @property
    def flops(self) -> float:
        """6·N·D, with all parameters."""
        return training_flops(self.size.parameters, self.tokens)


def short(flops: float) -> str:
    """A budget as people write it: 3e13."""
    return re.sub(r"e\+0*", "e", f"{flops:.4g}")


def read_family(file: Path) -> Family:
    """The family of a YAML file.

    Raises:
        UserError: it is not there, or a field is missing, unknown or impossible; all of them, a line each.
    """
    fields = read_yaml(file, "scaling run", f"a family, such as {QUICK}")
    wrong = [f"{file}: no {key}: {QUICK} shows what it may be" for key in KEYS if key not in fields]
    wrong += [f"{file}: there is no field {key}: take it out" for key in fields if key not in KEYS]
    if wrong:
        raise UserError("\n".join(wrong))
    errors: list[str] = []
    family = _family(file, fields, errors)
    if errors:
        raise UserError("\n".join(f"{file}: {error}" for error in errors))
    return family


def _family(file: Path, fields: dict[str, Any], errors: list[str]) -> Family:
    sizes, budgets, rule = fields["sizes"], fields["budgets"], fields["learning_rate"]
    if not isinstance(sizes, dict) or not all(isinstance(each, dict) for each in sizes.values()) or not sizes:
        errors.append(
            "sizes is no mapping of names to fields of model.config: such as d64: {hidden_size: 64}"
        )
        sizes = {}
    if not isinstance(budgets, list) or not budgets:
        errors.append("budgets is no list: give FLOPs such as [1.0e13, 3.0e13]")
        budgets = []
    if not isinstance(rule, dict) or set(rule) != set(Rate._fields):
        errors.append(
            "learning_rate: give peak, width and power, such as {peak: 4.0e-3, width: 128, power: -0.5}"
        )
        rule = dict.fromkeys(Rate._fields, 1.0)
    flops = {number(f"budgets: {each}", each, errors, "FLOPs such as 1e13") for each in budgets}
    power = rule["power"]
    if isinstance(power, bool) or not isinstance(power, int | float):
        errors.append(f"learning_rate.power is {power!r}: give a number such as -0.5")
        power = 0.0
    peak, width = (
        number(f"learning_rate.{key}", rule[key], errors, "such as 4e-3") for key in ("peak", "width")
    )
    shares = {
        key: number(key, fields[key], errors, "up to 1", least=0) for key in ("decay_share", "min_lr_ratio")
    }
    if not 0 < shares["decay_share"] < 1:
        errors.append(f"decay_share is {fields['decay_share']}: give a share of each run between 0 and 1")
    return Family(
        folder=Path(str(fields["folder"])),
        stage=Path(os.path.normpath(file.parent / str(fields["stage"]))),
        sizes={str(name): own for name, own in sizes.items()},
        budgets=tuple(sorted(flops)),
        rate=Rate(peak, width, float(power)),
        warmup_steps=int(number("warmup_steps", fields["warmup_steps"], errors, "optimizer steps", least=0)),
        **shares,
        precision=str(fields["precision"]),
    )


def points_of(family: Family, overrides: Sequence[str]) -> list[Point]:
    """The runs of a family: size by size, each size's budgets ascending.

    Args:
        overrides: of `trivium fit`, for every run.

    Raises:
        UserError: a mistake in the stage's YAML, data that is not there, or a budget too small for a size.
    """
    points, wrong = [], []
    for name, own in family.sizes.items():
        size = _size(family, name, own, overrides)
        for budget in family.budgets:
            steps = max(1, round(budget / training_flops(size.parameters, size.step_tokens)))
            # the rate of step s falls where (steps − s) / (share · steps) is below 1
            point = Point(size, budget, steps, int(steps * (1 - family.decay_share)))
            points.append(point)
            if point.trunk_steps <= family.warmup_steps:
                short = f"budgets: {budget:g} FLOPs are {steps} steps of {name}, and decay begins at step"
                remedy = "give more FLOPs, fewer warmup_steps, or a smaller batch"
                wrong.append(
                    f"{short} {point.trunk_steps}, within the {family.warmup_steps} of warm-up: {remedy}"
                )
    if wrong:
        raise UserError("\n".join(wrong))
    return points


def _size(family: Family, name: str, own: dict[str, Any], overrides: Sequence[str]) -> Size:
    from experiments.plan.config import run_of

    line = ["--config", str(family.stage), f"--trainer.precision={family.precision}", *overrides]
    config = _parsed(line)
    _refuse_missing_data(config, family.stage)
    base = config["model"]["init_args"].get("config")
    if base is None:
        raise UserError(f"{family.stage}: no model.config: sizes are built from scratch, over its fields")
    line += [f"--model.init_args.config={json.dumps({**base, **own})}"]
    line += [f"--model.init_args.warmup_steps={family.warmup_steps}"]
    run = run_of(_parsed(line), None)
    if run.stage != "pretrain":
        raise UserError(f"{family.stage}: a stage `{run.stage}`: the law is that of pretraining")
    sizes = run.networks[0].sizes
    rate = family.rate.of(sizes.hidden)
    line += [f"--model.init_args.optimizer.init_args.lr={rate}"]
    resolved = _parsed(line)
    settings = {key: resolved[key] for key in ("model", "data", "seed_everything")}
    settings |= {key: resolved["trainer"][key] for key in ("precision", "gradient_clip_val")}
    settings["decay"] = family.decay_share, family.min_lr_ratio
    attention = sizes.layers, sizes.heads * sizes.head_size, run.tokens
    return Size(
        name=name,
        options=tuple(line),
        learning_rate=rate,
        parameters=sizes.parameters,
        without_embeddings=sizes.parameters - sizes.embeddings,
        forward_flops=forward_flops_per_token(sizes.matmul, *attention),
        step_tokens=run.step_tokens,
        accumulate=max(1, run.step_rows // (run.rows * run.parallelism.data)),
        digest=sha256(json.dumps(settings, sort_keys=True, default=str).encode()).hexdigest(),
    )


def _parsed(line: Sequence[str]) -> Any:
    """The configuration that a line of `trivium fit` resolves to."""
    from experiments.cli.parser import ParseOnly, parse

    logging.disable(logging.INFO)  # Lightning tells the seed
    try:
        return parse(["fit", *line], ParseOnly).config["fit"]
    finally:
        logging.disable(logging.NOTSET)


def _refuse_missing_data(config: Any, stage: Path) -> None:
    """Refuses where the quickstart's files are named and not there; of others `fit` itself tells."""
    data = config["data"]["init_args"].as_dict()
    sources = (data.get("sources") or {}).values()
    if sources and not any(source.get("val") for source in sources):
        raise UserError(f"{stage}: no source has `val`: the law is of losses on text that is not trained on")
    named = [data.get("tokenizer"), *(source.get(split) for source in sources for split in ("train", "val"))]
    for path in named:
        if isinstance(path, str) and path.startswith("runs/quickstart/") and not Path(path).exists():
            raise UserError(
                f"{stage}: {path} is not there: run `trivium quickstart`, which makes it, or name another "
                "corpus in a copy of this YAML"
            )
