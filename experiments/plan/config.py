"""What a run's configuration says of its networks, batches and devices. Neither stage nor data is built: both
say it of themselves from their arguments. Only each network's config is read, and the tokenizer where one has
no vocabulary."""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from lightning.pytorch.callbacks import StochasticWeightAveraging
from transformers import AutoTokenizer, PretrainedConfig

from experiments.cli.parser import ParseOnly, parse
from experiments.cli.user_errors import UserError
from experiments.plan.network_sizes import Head, Sizes, read_config, sizes
from experiments.plan.parallelism import Parallelism
from experiments.plan.strategies_memory import defaults_of, parallelism_of
from modules.averaging import AVERAGING
from modules.hf_config import named
from modules.stage import NetworkSpec, SamplingSpec

ADAMS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "FusedAdam", "DeepSpeedCPUAdam")
MOMENTS = {"SGD": 0, "Adafactor": 0, "Adagrad": 1, "RMSprop": 1, "Lion": 1, **dict.fromkeys(ADAMS, 2)}


class Network(NamedTuple):
    """One of a run's networks."""

    name: str
    head: Head
    trained: bool
    config: PretrainedConfig
    sizes: Sizes


class Run(NamedTuple):
    """A run as the plan sees it."""

    stage: str
    networks: tuple[Network, ...]
    parallelism: Parallelism  # the strategy and its degrees
    devices: int
    local: int  # ranks on each machine
    precision: str
    moments: int  # numbers that the optimizer keeps for each parameter
    rows: int  # sequences of one forward on one rank
    micro_batch_size: int  # as configured: rows of data (PPO: of samples) of one forward
    tokens: int  # of a sequence at most
    step_rows: int  # sequences of an optimizer step (PPO: prompts of an iteration) over all ranks
    accumulates: bool  # whether a step has several micro-batches
    checkpointing: bool | None
    """whether blocks are computed again in the backward pass; None = the stage has no such option"""
    on_cpu: bool  # whether ranks are CPU processes, whose own memory is the machine's
    steps: int | None  # optimizer steps, where the configuration alone tells
    epochs: int  # passes over the data, where steps do not decide
    sampling: SamplingSpec | None
    notes: tuple[str, ...]  # what was assumed
    averages: int = 0  # copies of all networks, as callbacks that average weights keep them
    averages_on_device: int = 0
    """those of them that are told to be there; the others are in the machine's memory"""

    @property
    def step_tokens(self) -> int:
        """Tokens of an optimizer step (PPO: an iteration) over all ranks at most."""
        return self.step_rows * self.tokens


def read_run(files: Sequence[str], overrides: Sequence[str], devices: int | None) -> Run:
    """The run that a command line of `trivium fit` describes, `--config`s and overrides; else as `run_of`."""
    return run_of(parse(fit_line(files, overrides), ParseOnly).config["fit"], devices)


def run_of(parsed: Any, devices: int | None) -> Run:
    """The run that a parsed configuration of `trivium fit` describes.

    Its ranks over all machines are `devices`, or where that is None the configuration's.

    Raises:
        UserError: a mistake in it, or a network whose config is not there.
    """
    config = parsed.as_dict()
    trainer = config["trainer"]
    stage, model = _class_and_arguments(config["model"])
    kind, data = _class_and_arguments(config["data"])
    local = _devices(trainer)
    ranks = devices or local * trainer["num_nodes"]
    row, sampling = kind.row_spec(data), stage.sampling_spec(model)
    notes: list[str] = []
    parallelism = parallelism_of(trainer["strategy"], ranks, notes)
    notes += [row.note] if row.note else []
    averages, on_device = _averages(trainer["callbacks"], notes)
    micro_batch_size = sampling.micro_batch_size if sampling else data["micro_batch_size"]
    rows, step_rows = micro_batch_size * row.sequences, data["global_batch_size"] * row.sequences
    return Run(
        stage=stage.stage,
        networks=_networks(stage.network_specs(model), data["tokenizer"]),
        parallelism=parallelism,
        devices=ranks,
        local=min(ranks, local) if devices is None else ranks,
        precision=str(trainer["precision"] or "32-true"),
        moments=_moments(model.get("optimizer"), notes),
        rows=rows,
        micro_batch_size=micro_batch_size,
        tokens=row.tokens + (sampling.new_tokens if sampling else 0),
        step_rows=step_rows,
        accumulates=step_rows > rows * parallelism.data,
        checkpointing=model.get("activation_checkpointing"),
        on_cpu=trainer["accelerator"] == "cpu",
        steps=trainer["max_steps"] if trainer["max_steps"] > 0 else None,
        epochs=max(1, trainer["max_epochs"] or 1),
        sampling=sampling,
        notes=tuple(notes),
        averages=averages,
        averages_on_device=on_device,
    )


def fit_line(files: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The command line of `trivium fit` for some configurations and overrides."""
    configs = [word for file in files for word in ("--config", file)]
    return ["fit", *configs, *overrides, "--seed_everything=false"]  # seeding would be told on stderr


def _class_and_arguments(given: Mapping[str, Any]) -> tuple[Any, dict[str, Any]]:
    """A configured class, and its arguments: those given, the defaults of the others."""
    module, _, name = given["class_path"].rpartition(".")
    cls = getattr(import_module(module), name)
    return cls, {**defaults_of(cls), **(given.get("init_args") or {})}


def _devices(trainer: Mapping[str, Any]) -> int:
    """Ranks on a machine, as Lightning would count them."""
    given = trainer["devices"]
    if given in ("auto", "-1", -1):
        on_gpu = trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        return torch.cuda.device_count() if on_gpu else 1
    if isinstance(given, str) and not given.lstrip("-").isdigit():  # "0,1": which ones
        given = [part for part in given.strip("[]").split(",") if part.strip()]
    ranks = len(given) if isinstance(given, list) else int(given)
    if ranks < 1:
        raise UserError(f"trainer.devices is {ranks}: give 1 or more")
    return ranks


def _networks(specs: Sequence[NetworkSpec], tokenizer: str) -> tuple[Network, ...]:
    """The networks of a stage; those of the same source and head are counted once."""
    networks: list[Network] = []
    for index, spec in enumerate(specs):
        alike = [each for each in range(index) if specs[each][2:4] == (spec.source, spec.head)]
        if alike:
            networks.append(networks[alike[0]]._replace(name=spec.name, trained=spec.trained))
            continue
        field = f"model.{spec.argument}"
        lacks_vocabulary = not isinstance(spec.source, str) and "vocab_size" not in spec.source
        config = read_config(spec.source, _vocabulary(tokenizer) if lacks_vocabulary else None, field)
        with named(field):
            networks.append(Network(spec.name, spec.head, spec.trained, config, sizes(config, spec.head)))
    return tuple(networks)


def _vocabulary(tokenizer: str) -> int:
    try:
        return len(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model.config has no vocab_size and data.tokenizer {tokenizer} cannot be read: make it with "
            "`trivium tokenizer`, or add --model.init_args.config.vocab_size N"
        ) from error


def _averages(callbacks: Any, notes: list[str]) -> tuple[int, int]:
    """Callbacks that average weights, and those of them whose copies are on a GPU where the run is: Lightning
    makes a copy before the stage is there, on the CPU, unless a device is named."""
    averages = on_device = 0
    for given in callbacks if isinstance(callbacks, list) else [callbacks]:
        if not isinstance(given, Mapping):
            continue
        kind, arguments = _class_and_arguments(given)
        if isinstance(kind, type) and issubclass(kind, AVERAGING):
            averages += 1
            device = arguments.get("device", "cpu")
            # one of epochs moves its copy once the run has begun, where it is told no device
            moves = device is None and issubclass(kind, StochasticWeightAveraging)
            on_device += moves or not str(device or "cpu").startswith("cpu")
            notes.append(f"{kind.__name__} keeps a copy of all networks, which counts as weights")
    return averages, on_device


def _moments(optimizer: Any, notes: list[str]) -> int:
    """Numbers that an optimizer keeps for each parameter."""
    if not isinstance(optimizer, Mapping):
        return 2  # every stage's default is AdamW
    path, options = optimizer["class_path"], optimizer.get("init_args") or {}
    name = path.rpartition(".")[2]
    if name in MOMENTS:
        return MOMENTS[name] + bool(options.get("amsgrad") or options.get("momentum"))
    notes.append(f"{path} keeps two numbers a parameter, as Adam does")
    return 2
