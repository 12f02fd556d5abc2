"""Devices and memory: strategies as functions that YAML names, `--trainer.strategy strategies.ddp`."""

from strategies.factory import ddp, deepspeed, fsdp, tensor_parallel

__all__ = ["ddp", "deepspeed", "fsdp", "tensor_parallel"]
