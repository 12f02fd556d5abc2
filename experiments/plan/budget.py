"""What a plan has at its disposal: devices, their memory and speed, and tokens."""

import argparse
import os
from pathlib import Path
from typing import Any, NamedTuple

from experiments.cli.user_errors import UserError
from experiments.plan.scaling import seconds
from experiments.plan.units import number, shown

HINTS: dict[str, tuple[str, float | None]] = {
    "devices": ("such as 64", 1),
    "memory": ("bytes of a device, such as 80e9", 1),
    "tokens": ("such as 1.4e12", 1),
    "flops": ("a device's FLOPs a second, such as 989e12 of an H100", None),
    "mfu": ("the share of the peak that is reached, such as 0.4", None),
}
"""option → what to give, and the least of it; None = above 0"""


class Budget(NamedTuple):
    """What the command line gives; None = not given."""

    devices: int | None = None
    memory: int | None = None  # bytes of a device
    tokens: int | None = None  # to train on in all
    flops: float | None = None  # peak of a device, FLOPs a second
    mfu: float | None = None  # share of the peak that is reached

    def time(self, flops: float | None, devices: int) -> float | None:
        """Seconds that a run of so many FLOPs takes; None where the speed or the run is not known."""
        if flops is None or self.flops is None or self.mfu is None:
            return None
        return seconds(flops, devices, self.flops, self.mfu)


def read_budget(options: argparse.Namespace) -> Budget:
    """The budget of a command line.

    Raises:
        UserError: numbers that cannot be, a line each.
    """
    errors: list[str] = []
    given: dict[str, Any] = {}
    for name, (hint, least) in HINTS.items():
        if (text := getattr(options, name)) is not None:
            given[name] = number(f"--{name}", text, errors, hint, least)
    if given.get("devices", 1) % 1:
        errors.append(f"--devices is {shown(options.devices)}: give a whole number")
    if given.get("mfu", 1) > 1:
        errors.append(f"--mfu is {shown(options.mfu)}: give a share of the peak, such as 0.4")
    if ("flops" in given) != ("mfu" in given):
        wanted = "give both, such as --flops 989e12 --mfu 0.4"
        errors.append(f"--flops and --mfu tell the time only together: {wanted}")
    if errors:
        raise UserError("\n".join(errors))
    whole = {name: int(given[name]) for name in ("devices", "memory", "tokens") if name in given}
    return Budget(**(given | whole))


def machine_memory(ranks: int, on_gpu: bool = True) -> tuple[int, str]:
    """Bytes that one of so many ranks has on this machine, on its GPUs or not; and what that is in words."""
    import torch

    if on_gpu and torch.cuda.is_available():
        return torch.cuda.get_device_properties(0).total_memory, "this machine's GPU"
    shared = f", shared by {ranks} processes" if ranks > 1 else ""
    return ram_bytes() // ranks, f"this machine's RAM{shared}"


def ram_bytes() -> int:
    """Bytes of RAM that this process may use: the machine's, or its container's where that is less."""
    most, limit = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), Path("/sys/fs/cgroup/memory.max")
    text = limit.read_text().strip() if limit.is_file() else ""
    return min(most, int(text)) if text.isdigit() else most  # `max` = no limit
