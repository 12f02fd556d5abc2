"""Strategies as typed functions."""

from datetime import timedelta

from lightning.pytorch.strategies import DDPStrategy


def ddp(backend: str | None = None, timeout_seconds: int = 1800) -> DDPStrategy:
    """Data parallel: every rank holds the whole model, gradients are averaged.

    Args:
        backend: `nccl`, `gloo` (CPU); chosen by the device when missing.
        timeout_seconds: how long a rank waits for the others.
    """
    return DDPStrategy(
        process_group_backend=backend,
        timeout=timedelta(seconds=timeout_seconds),
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )
