"""Where a run's metrics go: a CSV file and W&B, offline unless the user is logged in; where a run goes on, so
do its curves."""

import csv
import netrc
import os
import re
import sys
from pathlib import Path
from typing import Any
from urllib.parse import urlparse

import lightning as L
from lightning.pytorch.callbacks import Callback
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger

from experiments.atomic import write_text
from experiments.callbacks.upstream import count_steps_anew, steps_behind, without_anonymous

WANDB_FOLDER = re.compile(r"run-\d{8}_\d{6}-(.+)")


def default_loggers(run: str, goes_on: bool) -> list[Logger]:
    """`metrics/version_N/metrics.csv`, where N counts how often the run went on, and a W&B run, both in the
    run's folder; W&B's is the one before where the run `goes_on`."""
    if folder := os.environ.get("TRIVIUM_SWEEP_RUN"):  # a sweep wants to know where to look
        with open(Path(folder) / "folders.txt", "a", encoding="utf-8") as file:
            file.write(f"{Path(run).resolve()}\n")
    loggers: list[Logger] = [CSVLogger(run, name="metrics", flush_logs_every_n_steps=1)]
    mode = os.environ.get("WANDB_MODE") or ("online" if _logged_in() else "offline")
    if mode != "disabled":
        # a sweep has chosen the run already
        chosen = os.environ.get("WANDB_RUN_ID") or os.environ.get("WANDB_SWEEP_ID")
        id = wandb_id(Path(run)) if goes_on and not chosen else None
        project = os.environ.get("WANDB_PROJECT") or "trivium"
        # Lightning asks W&B for `resume="allow"`; what was written offline `wandb sync` appends by the id
        logger = WandbLogger(name=Path(run).name, project=project, save_dir=run, mode=mode, id=id)
        loggers.append(without_anonymous(logger))
    return loggers


def wandb_id(run: Path) -> str | None:
    """The id of a run's last W&B run, which its folder is named after; None where it had none."""
    found = [match for path in run.glob("wandb/*") if (match := WANDB_FOLDER.search(path.name))]
    return max(found, key=lambda match: match.group())[1] if found else None  # named by time, then by id


class Curves(Callback):
    """Takes the steps that are trained once more out of the metrics of a run that goes on: those after its
    checkpoint, when it was cut off. Tells a sweep how many steps there will be."""

    def __init__(self, run: str):
        self.run = Path(run)
        self.goes_on = False  # until its first batch

    def on_train_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        self.goes_on = trainer.ckpt_path is not None
        if trainer.is_global_zero and trainer.ckpt_path is not None:
            for file in self.run.glob("metrics/version_*/metrics.csv"):
                keep_steps(file, steps_behind(trainer))
        folder = os.environ.get("TRIVIUM_SWEEP_RUN")
        if trainer.is_global_zero and folder and self.run.resolve() == Path(folder).resolve():
            write_text(Path(folder, "length.txt"), f"{steps_in_all(trainer)}\n")

    def on_train_batch_start(
        self, trainer: L.Trainer, pl_module: L.LightningModule, batch: Any, batch_idx: int
    ) -> None:
        if self.goes_on:
            count_steps_anew(trainer)
            self.goes_on = False


def steps_in_all(trainer: L.Trainer) -> int:
    """The steps of a run from its first one on, as its metrics count them: PPO's are iterations."""
    updates: Any = trainer.lightning_module.updates_per_batch
    batches = -(-int(trainer.num_training_batches) // trainer.accumulate_grad_batches)
    ends = [-(-trainer.max_steps // updates)] if trainer.max_steps > 0 else []
    ends += [batches * trainer.max_epochs] if trainer.max_epochs and trainer.max_epochs > 0 else []
    return min(ends, default=batches)


def keep_steps(file: Path, steps: int) -> None:
    """Leaves the first `steps` optimizer steps (PPO: iterations) in a file of metrics."""
    lines = file.read_text(encoding="utf-8").splitlines(keepends=True)
    names = next(csv.reader(lines[:1]), [])
    if "step" not in names:
        return
    place = names.index("step")
    kept = [line for line in lines[1:] if _is_before(next(csv.reader([line])), place, len(names), steps)]
    if len(kept) < len(lines) - 1:
        write_text(file, "".join([*lines[:1], *kept]))


def _is_before(row: list[str], place: int, width: int, steps: int) -> bool:
    """Whether a row is whole (a run may be cut off while it writes one) and of an earlier step."""
    return len(row) == width and row[place].isdigit() and int(row[place]) < steps


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
