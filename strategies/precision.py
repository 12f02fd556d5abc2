"""What a device computes in 16 bits in hardware: the precision that `auto` stands for, and those that would
only be imitated."""

import os
from collections.abc import Mapping
from typing import Any

import torch
from lightning.pytorch.plugins import DeepSpeedPrecision, FSDPPrecision, Precision, XLAPrecision
from lightning.pytorch.strategies import DeepSpeedStrategy, FSDPStrategy, Strategy, XLAStrategy

from strategies.upstream import onednn_takes

AUTO = "auto"
INSTRUCTIONS = {  # any of these, by the names of `torch.cpu.get_capabilities`: x86's, then Arm's
    "bf16": ("avx512_bf16", "amx_bf16", "avx_ne_convert", "bf16"),
    "fp16": ("avx512_fp16", "amx_fp16", "fp16_arith"),
}
DEVICES = {"cpu": "CPU", "cuda": "GPU"}
ALLOWED = "TRIVIUM_ALLOW_EMULATED"
"""set to 1, the environment variable lets a CPU imitate 16 bits all the same: tests of rounding want it"""


def precision_of(precision: Any, accelerator: Any) -> Any:
    """The precision to give to Lightning's Trainer: for `auto` bf16-mixed where the device has bf16 in
    hardware, else 32-true; any other as it is.

    Args:
        precision: the Trainer's option, or `auto`.
        accelerator: the Trainer's option.
    """
    if precision != AUTO:
        return precision
    device = accelerator
    if accelerator in ("auto", "gpu", "cuda"):
        # on Apple's GPU, which Lightning would take before the CPU, fp32 is the safe answer
        on_apple = torch.backends.mps.is_available()
        device = "cuda" if torch.cuda.is_available() else "mps" if on_apple else "cpu"
    return "bf16-mixed" if in_hardware("bf16", device) else "32-true"


PLUGINS: dict[type, type] = {
    DeepSpeedPrecision: DeepSpeedStrategy,
    FSDPPrecision: FSDPStrategy,
    XLAPrecision: XLAStrategy,
}
"""Lightning's precisions that run under one strategy alone, and it"""


def plugin_errors(plugin: Precision, strategy: Strategy) -> list[str]:
    """The line that refuses a precision plugin which runs under another strategy alone."""
    owner = PLUGINS.get(type(plugin))
    if owner is None or isinstance(strategy, owner):
        return []
    name = type(plugin).__name__
    return [f"trainer.plugins: {name} runs under {owner.__name__} alone: give trainer.precision instead"]


def precision_errors(precision: str, device: str, parameters: torch.dtype | None = None) -> list[str]:
    """Why a run would crawl, a line each.

    Args:
        precision: the Trainer's, by Lightning's full name or its short one.
        device: what it runs on: `cpu`, `cuda`, …
        parameters: dtype that a strategy gathers parameters in, where it has one of its own.
    """
    if os.environ.get(ALLOWED) == "1" or device not in DEVICES:
        return []
    wants: dict[str, str] = {}
    if str(precision).startswith("bf16") or (device, str(precision)) in (("cpu", "16-mixed"), ("cpu", "16")):
        wants["bf16"] = f"trainer.precision is {precision}"  # Lightning's fp16 on a CPU is bf16
    elif str(precision) == "16-true":
        wants["fp16"] = "trainer.precision is 16-true"
    names = {torch.bfloat16: "bf16", torch.float16: "fp16"}
    if parameters in names:
        wants.setdefault(names[parameters], f"trainer.strategy: parameters is {names[parameters]}")
    return [
        f"{field}, but this {DEVICES[device]} has no {kind} instructions and would be "
        f"many times slower than in fp32: {_instead(field)}"
        for kind, field in wants.items()
        if not in_hardware(kind, device)
    ]


def _instead(field: str) -> str:
    return "give --trainer.precision 32-true" if "precision" in field else "leave it out, for fp32"


def in_hardware(kind: str, device: str) -> bool:
    """Whether a device computes `bf16` or `fp16` matrix products by instructions of their own; False for
    devices other than `cpu` and `cuda`."""
    if device == "cuda":
        return kind == "fp16" or torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and cpu_has(kind, onednn_takes(kind), torch.cpu.get_capabilities())


def cpu_has(kind: str, onednn: bool, capabilities: Mapping[str, Any]) -> bool:
    """Whether a CPU computes `bf16` or `fp16` matrix products by instructions of their own.

    Both must say so. Without oneDNN torch has only loops of its own (2 instead of 1100 GFLOP/s, one core of a
    Xeon with AMX); and oneDNN says yes to AVX-512 without bf16 too, where it imitates it (17 of 122 in fp32).

    Args:
        kind: `bf16` or `fp16`.
        onednn: whether oneDNN takes matrices of that type on this machine.
        capabilities: instruction sets by `torch.cpu.get_capabilities`'s names.
    """
    return onednn and any(capabilities.get(name, False) for name in INSTRUCTIONS[kind])
