"""Ranges of the options that are the command line's and Lightning's own, which Lightning would not refuse or
only with a trace."""

import math
from collections.abc import Mapping
from datetime import timedelta
from typing import Any

from jsonargparse import Namespace

LEAST = {
    "max_epochs": -1,
    "num_nodes": 1,
    "check_val_every_n_epoch": 1,
    "log_every_n_steps": 0,
    "num_sanity_val_steps": -1,
}
"""the Trainer's whole numbers → the least that makes sense"""
LONGEST = 60 * 24 * 365  # minutes between checkpoints: a year


def option_errors(options: Mapping[str, Any]) -> list[str]:
    """What is wrong with the values of a command's options, a line each."""
    seed, minutes = options.get("seed_everything"), options.get("checkpoint_minutes")
    given: Any = options.get("trainer", {})
    errors = []
    if not isinstance(given, Mapping | Namespace):  # the argument parser lets anything pass there
        shown = "null" if given is None else given
        return [f"trainer is {shown}: give names with values, as `trainer: {{max_steps: 100}}`"]
    if isinstance(seed, int) and not isinstance(seed, bool) and not 0 <= seed < 2**32:
        errors.append(f"seed_everything is {seed}: give a whole number from 0 to {2**32 - 1}")
    if minutes is not None and not 0 < minutes <= LONGEST:
        errors.append(f"checkpoint_minutes is {minutes:g}: give a number above 0, at most {LONGEST}")
    for name, least in LEAST.items():
        value = given.get(name)
        if isinstance(value, int) and value < least:
            errors.append(f"trainer.{name} is {value}: give {least} or more")
    devices = given.get("devices")
    if devices in (0, "0", []):
        errors.append(f"trainer.devices is {devices}: give 1 or more, or auto")
    clip = given.get("gradient_clip_val")
    if clip is not None and not math.isfinite(clip):  # 0 and less are off, as for Lightning
        errors.append(f"trainer.gradient_clip_val is {clip}: give a number, or leave it out for no clipping")
    interval = given.get("val_check_interval")
    if isinstance(interval, int | float) and not interval > 0:
        errors.append(f"trainer.val_check_interval is {interval}: give a share of an epoch, or batches")
    time = given.get("max_time")
    if isinstance(time, timedelta | dict) and not _seconds(time) > 0:
        errors.append(f"trainer.max_time is {time}: give a time above 0, such as 00:01:30:00")
    if given.get("barebones"):
        errors.append(
            "trainer.barebones is true, and a run would leave no checkpoint and no export: leave it out"
        )
    return errors


def _seconds(time: timedelta | dict[str, int]) -> float:
    """Of a duration; infinite where it is none, which Lightning says better."""
    try:
        return (timedelta(**time) if isinstance(time, dict) else time).total_seconds()
    except (TypeError, OverflowError):
        return math.inf
