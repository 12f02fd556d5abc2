"""Devices and memory: strategies as functions that YAML names, `--trainer.strategy strategies.ddp`."""

from strategies.factory import ddp, deepspeed, fsdp

__all__ = ["ddp", "deepspeed", "fsdp"]
