"""Where a run's metrics go: a CSV file and W&B, offline unless the user is logged in."""

import os
from pathlib import Path

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger


def default_loggers(run: str) -> list[Logger]:
    """`metrics/version_N/metrics.csv` and a W&B run, both in the run's folder."""
    Path(run).mkdir(parents=True, exist_ok=True)
    loggers: list[Logger] = [CSVLogger(run, name="metrics")]
    if os.environ.get("WANDB_MODE") != "disabled":
        name = Path(run).name
        loggers.append(WandbLogger(name=name, project="trivium", save_dir=run, offline=not _logged_in()))
    return loggers


def _logged_in() -> bool:
    if os.environ.get("WANDB_MODE") == "offline":
        return False
    import wandb

    try:
        return bool(wandb.api.api_key)
    except wandb.errors.UsageError:
        return False
