"""What `--trainer.strategy` may be: a name of ours, or Lightning's own where it runs."""

import re
from typing import Any

import torch
from lightning.pytorch.accelerators import CUDAAccelerator
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, StrategyRegistry

import strategies
from strategies.errors import UserError

CUDA_ONLY: dict[type, str] = {FSDPStrategy: "fsdp", DeepSpeedStrategy: "deepspeed"}
"""Lightning's classes that run on CUDA alone → the name of ours"""


def strategy_of(strategy: Any, accelerator: Any) -> Any:
    """The strategy to give to Lightning's Trainer.

    Args:
        strategy: the Trainer's option: `strategies.NAME` is made with its defaults, others are as they were.
        accelerator: the Trainer's option.

    Raises:
        UserError: there is none of that name, or it is Lightning's and needs CUDA, which is not used.
    """
    if isinstance(strategy, str) and strategy.startswith("strategies."):
        make = getattr(strategies, strategy.removeprefix("strategies."), None)
        if make is None:
            raise _unknown(strategy)
        return make()
    if isinstance(strategy, str) and strategy != "auto" and strategy.lower() not in StrategyRegistry:
        raise _unknown(strategy)
    instead = _ours_instead(strategy)
    if instead is not None and not _on_cuda(accelerator):
        given = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise UserError(f"trainer.strategy: Lightning's {given} runs on CUDA only: use {instead}")
    return strategy


def _unknown(name: str) -> UserError:
    known = ", ".join(f"strategies.{each}" for each in strategies.__all__)
    return UserError(f"trainer.strategy: there is no {name}; there is {known}")


def _ours_instead(strategy: Any) -> str | None:
    """Our name, with its options, for what Lightning runs on CUDA alone."""
    if not isinstance(strategy, str):
        name = CUDA_ONLY.get(type(strategy))
        return name and f"strategies.{name}"
    name = strategy.lower()
    options = {}
    if name.startswith("fsdp"):
        if name.endswith("offload"):
            options["cpu_offload"] = "true"
        return _spelled("fsdp", options)
    if name.startswith("deepspeed"):
        if stage := re.search(r"stage_(\d)", name):
            options["stage"] = stage[1]
        if "offload" in name:
            options["offload"] = "parameters" if options["stage"] == "3" else "optimizer"
        if "nvme" in name:
            options["nvme_path"] = "FOLDER"
        return _spelled("deepspeed", options)
    return None


def _spelled(name: str, options: dict[str, str]) -> str:
    listed = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"strategies.{name}" + (f" with init_args {{{listed}}}" if listed else "")


def _on_cuda(accelerator: Any) -> bool:
    if accelerator in ("auto", "gpu", "cuda"):
        return torch.cuda.is_available()
    return isinstance(accelerator, CUDAAccelerator)
