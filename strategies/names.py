"""What `--trainer.strategy` may be: a name of ours, or Lightning's own where it runs."""

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
    ours = {f"strategies.{name}": name for name in strategies.__all__}
    if strategy in ours:
        return getattr(strategies, ours[strategy])()
    if isinstance(strategy, str) and strategy != "auto" and strategy.lower() not in StrategyRegistry:
        raise UserError(f"trainer.strategy: there is no {strategy}; there is {', '.join(ours)}")
    instead = _ours_instead(strategy)
    on_cuda = isinstance(accelerator, CUDAAccelerator)
    if accelerator in ("auto", "gpu", "cuda"):
        on_cuda = torch.cuda.is_available()
    if instead is not None and not on_cuda:
        given = strategy if isinstance(strategy, str) else type(strategy).__name__
        raise UserError(f"trainer.strategy: Lightning's {given} runs on CUDA only: use {instead}")
    return strategy


def _ours_instead(strategy: Any) -> str | None:
    """Our name, with its options, for what Lightning runs on CUDA alone; None where it runs anywhere."""
    cls, given = type(strategy), {}
    if isinstance(strategy, str) and strategy != "auto":  # as `deepspeed_stage_3_offload_nvme`
        entry = StrategyRegistry[strategy.lower()]
        cls, given = entry["strategy"], entry["init_params"]
    if cls not in CUDA_ONLY:
        return None
    options = {key: str(given[key]).lower() for key in ("cpu_offload", "stage") if key in given}
    if "offload_optimizer" in given:
        options["offload"] = "parameters" if "offload_parameters" in given else "optimizer"
    if "remote_device" in given:
        options["nvme_path"] = "FOLDER"
    listed = ", ".join(f"{key}: {value}" for key, value in options.items())
    return f"strategies.{CUDA_ONLY[cls]}" + (f" with init_args {{{listed}}}" if listed else "")
