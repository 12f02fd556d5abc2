"""Where a run's metrics go: a CSV file and W&B, offline unless the user is logged in."""

import netrc
import os
import sys
from pathlib import Path
from urllib.parse import urlparse

from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger


def default_loggers(run: str) -> list[Logger]:
    """`metrics/version_N/metrics.csv` and a W&B run, both in the run's folder."""
    Path(run).mkdir(parents=True, exist_ok=True)
    loggers: list[Logger] = [CSVLogger(run, name="metrics")]
    mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    if mode != "disabled":
        loggers.append(WandbLogger(name=Path(run).name, project="trivium", save_dir=run, mode=mode))
    return loggers


def finish_wandb() -> None:
    """Ends the W&B run of this process, so that the next stage gets one of its own."""
    if "wandb" in sys.modules:
        import wandb

        if wandb.run is not None:
            wandb.finish()


def _logged_in() -> bool:
    """Whether `wandb login` left a key; asking W&B itself would freeze its settings before the run begins."""
    if os.environ.get("WANDB_API_KEY"):
        return True
    host = urlparse(os.environ.get("WANDB_BASE_URL", "https://api.wandb.ai")).hostname
    try:
        return host in netrc.netrc().hosts
    except (FileNotFoundError, netrc.NetrcParseError):
        return False
