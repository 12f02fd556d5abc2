"""What a run's configuration says of its networks, batches and devices. Neither model nor data is built: only
each network's config is read, and the tokenizer where a config has no vocabulary.
"""

import inspect
from collections.abc import Sequence
from importlib import import_module
from typing import Any, NamedTuple

import torch
from transformers import AutoTokenizer, PretrainedConfig

from datamodules import InstructionData, MixedCorpusData, PreferenceData, PromptData
from experiments.cli.parser import ParseOnly, parse
from experiments.cli.user_errors import UserError
from experiments.plan.network_sizes import Head, Sizes, read_config, sizes
from experiments.plan.strategy import Cut, cut_of
from modules.hf_config import named
from modules.stage import NetworkSpec, SamplingSpec

REPLIES = 4  # to a prompt of a reward model, where the data is not read
MOMENTS = {"SGD": 0, "Adafactor": 0, "Adagrad": 1, "RMSprop": 1, "Lion": 1}
ADAMS = ("Adam", "AdamW", "Adamax", "NAdam", "RAdam", "FusedAdam", "DeepSpeedCPUAdam")


class Network(NamedTuple):
    """One of a run's networks."""

    name: str
    head: Head
    trained: bool
    config: PretrainedConfig
    sizes: Sizes


class Rollout(NamedTuple):
    """How PPO samples."""

    rows: int
    """sequences sampled together"""
    response: int
    """tokens of a response at most"""
    prompts: int
    """of an iteration, over all ranks"""
    epochs: int
    """passes over an iteration's samples"""
    updates: int
    """optimizer steps of an iteration"""


class Run(NamedTuple):
    """A run as the plan sees it."""

    stage: str
    networks: tuple[Network, ...]
    cut: Cut
    """the strategy and its degrees"""
    devices: int
    local: int
    """ranks on each machine"""
    precision: str
    moments: int
    """numbers that the optimizer keeps for each parameter"""
    rows: int
    """sequences of one forward on one rank"""
    micro_batch_size: int
    """as configured: rows of data (PPO: of samples) of one forward"""
    tokens: int
    """of a sequence at most"""
    packed: bool
    """whether several documents share a sequence"""
    step_tokens: int
    """of an optimizer step (PPO: an iteration) over all ranks at most"""
    accumulates: bool
    """whether a step has several micro-batches"""
    checkpointing: bool | None
    """whether blocks are computed again in the backward pass; None = the stage has no such option"""
    on_cpu: bool
    """whether ranks are CPU processes, whose own memory is the machine's"""
    steps: int | None
    """optimizer steps, where the configuration alone tells"""
    epochs: int
    """passes over the data, where steps do not decide"""
    rollout: Rollout | None
    notes: tuple[str, ...]
    """what was assumed"""


def read_run(files: Sequence[str], overrides: Sequence[str], devices: int | None) -> Run:
    """The run that a command line of `trivium fit` describes.

    Args:
        files: its `--config`s.
        overrides: what follows them.
        devices: ranks over all machines; None = the configuration's.

    Raises:
        UserError: a mistake in it, or a network whose config is not there.
    """
    return run_of(parse(fit_line(files, overrides), ParseOnly).config["fit"], devices)


def run_of(config: Any, devices: int | None) -> Run:
    """The run that a parsed configuration of `trivium fit` describes.

    Args:
        config: with `trainer`, `model` and `data`.
        devices: ranks over all machines; None = the configuration's.

    Raises:
        UserError: a mistake in it, or a network whose config is not there.
    """
    trainer, model, data = config["trainer"], config["model"], config["data"]
    stage, kind = _class(model["class_path"]), _class(data["class_path"])
    arguments, given = _arguments(stage, model), _arguments(kind, data)
    notes: list[str] = []
    local = _devices(trainer)
    ranks = devices or local * trainer["num_nodes"]
    networks = tuple(_network(spec, given) for spec in stage.network_specs(arguments))
    cut = cut_of(trainer["strategy"], ranks, [network.sizes for network in networks], notes)
    rows, tokens, packed = _batch(stage.sampling_spec(arguments), kind, given, notes)
    step_rows = _step_rows(stage.sampling_spec(arguments), given, rows)
    sampling = stage.sampling_spec(arguments)
    rollout = _rollout(sampling, given) if sampling else None
    return Run(
        stage=stage.stage,
        networks=networks,
        cut=cut,
        devices=ranks,
        local=min(ranks, local) if devices is None else ranks,
        precision=str(trainer["precision"] or "32-true"),
        moments=_moments(arguments.get("optimizer"), notes),
        rows=rows,
        micro_batch_size=(arguments if rollout else given)["micro_batch_size"],
        tokens=tokens,
        packed=packed,
        step_tokens=step_rows * tokens,
        accumulates=step_rows > rows * cut.data,
        checkpointing=arguments.get("activation_checkpointing"),
        on_cpu=trainer["accelerator"] == "cpu",
        steps=trainer["max_steps"] if trainer["max_steps"] > 0 else None,
        epochs=max(1, trainer["max_epochs"] or 1),
        rollout=rollout,
        notes=tuple(notes),
    )


def fit_line(files: Sequence[str], overrides: Sequence[str]) -> list[str]:
    """The command line of `trivium fit` for some configurations and overrides; without a word on the seed."""
    return [
        "fit",
        *(word for file in files for word in ("--config", file)),
        *overrides,
        "--seed_everything=false",
    ]


def _class(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(import_module(module), name)


def _arguments(cls: Any, given: Any) -> dict[str, Any]:
    """A class's arguments: those given, the defaults of the others."""
    defaults = {
        name: parameter.default
        for name, parameter in inspect.signature(cls).parameters.items()
        if parameter.default is not parameter.empty
    }
    own = given.get("init_args") or {}
    return {**defaults, **(own if isinstance(own, dict) else vars(own))}  # a Namespace's items are flat


def _devices(trainer: Any) -> int:
    """Ranks on a machine, as Lightning would count them."""
    given = trainer["devices"]
    if isinstance(given, str) and given.lstrip("-").isdigit():
        given = int(given)
    if isinstance(given, str) and given != "auto":
        given = [part for part in given.strip("[]").split(",") if part.strip()]
    if isinstance(given, list):
        return len(given)
    if given in ("auto", -1):
        on_gpu = trainer["accelerator"] in ("auto", "gpu", "cuda") and torch.cuda.is_available()
        return torch.cuda.device_count() if on_gpu else 1
    if given < 1:
        raise UserError(f"trainer.devices is {given}: give 1 or more")
    return given


def _network(spec: NetworkSpec, data: dict[str, Any]) -> Network:
    where = f"model.{spec.argument}"
    from_scratch = not isinstance(spec.source, str)
    vocabulary = _vocabulary(data["tokenizer"]) if from_scratch and "vocab_size" not in spec.source else None
    config = read_config(dict(spec.source) if from_scratch else spec.source, vocabulary, where)  # type: ignore[arg-type]
    with named(where):
        return Network(spec.name, spec.head, spec.trained, config, sizes(config, spec.head))


def _vocabulary(tokenizer: str) -> int:
    try:
        return len(AutoTokenizer.from_pretrained(tokenizer, local_files_only=True))
    except (OSError, ValueError, KeyError) as error:
        raise UserError(
            f"model.config has no vocab_size and data.tokenizer {tokenizer} cannot be read: make it with "
            "`trivium tokenizer`, or add --model.init_args.config.vocab_size N"
        ) from error


def _batch(
    sampling: SamplingSpec | None, kind: Any, data: dict[str, Any], notes: list[str]
) -> tuple[int, int, bool]:
    """Sequences and tokens of a forward, and whether documents share a sequence."""
    if sampling:
        prompt = data["max_prompt_length"] if issubclass(kind, PromptData) else 0
        return sampling.micro_batch_size, prompt + sampling.new_tokens, False
    rows = data["micro_batch_size"]
    if issubclass(kind, MixedCorpusData):
        return rows, data["sequence_length"], True
    if data.get("packing"):
        return rows, data["packing"], True
    if issubclass(kind, PreferenceData):
        notes.append(f"{REPLIES} replies to a prompt")
        return rows * REPLIES, data["max_length"], False
    if issubclass(kind, InstructionData) or "max_length" in data:
        return rows, data["max_length"], False
    raise UserError(f"data: the plan does not know how long the rows of {kind.__name__} are")


def _step_rows(sampling: SamplingSpec | None, data: dict[str, Any], rows: int) -> int:
    """Sequences of an optimizer step (PPO: an iteration) over all ranks."""
    if sampling:
        return data["global_batch_size"]
    return data["global_batch_size"] * rows // data["micro_batch_size"]


def _rollout(sampling: SamplingSpec, data: dict[str, Any]) -> Rollout:
    return Rollout(
        rows=sampling.rows,
        response=sampling.new_tokens,
        prompts=data["global_batch_size"],
        epochs=sampling.epochs,
        updates=sampling.updates,
    )


def _moments(optimizer: Any, notes: list[str]) -> int:
    """Numbers that an optimizer keeps for each parameter."""
    path = optimizer.get("class_path") if hasattr(optimizer, "get") else None
    if path is None:
        return 2  # every stage's default is AdamW
    options = dict(optimizer.get("init_args") or {})
    name = path.rpartition(".")[2]
    if name in ADAMS:
        return 3 if options.get("amsgrad") else 2
    if name in MOMENTS:
        return MOMENTS[name] + bool(options.get("momentum"))
    notes.append(f"{path} keeps two numbers a parameter, as Adam does")
    return 2
