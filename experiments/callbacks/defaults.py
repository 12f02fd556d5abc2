"""Which callbacks a command has where its YAML names none."""

from datetime import timedelta

from lightning.pytorch.callbacks import Callback

from experiments.callbacks.checkpoints import StepCheckpoint
from experiments.callbacks.export import Export
from experiments.callbacks.mixture import Mixture
from experiments.callbacks.predictions import Predictions
from experiments.callbacks.progress import ProgressBar
from experiments.callbacks.receipt import DataReceipt
from experiments.callbacks.throughput import Throughput


def default_callbacks(
    run: str, checkpoint_minutes: float, subcommand: str, checkpoints: bool, progress: bool
) -> list[Callback]:
    """The callbacks of a command; a YAML that names one of these kinds replaces it.

    Args:
        run: folder of the run.
        checkpoint_minutes: between checkpoints.
        subcommand: of `trivium`.
        checkpoints: whether a fit writes any.
        progress: whether a fit shows its progress.
    """
    if subcommand != "fit":
        return [Predictions(run)] if subcommand == "predict" else []
    checkpoint = StepCheckpoint(
        dirpath=f"{run}/checkpoints",
        filename="{step}",
        save_last=True,
        train_time_interval=timedelta(minutes=checkpoint_minutes),
    )
    optional = [*([ProgressBar()] if progress else []), *([checkpoint] if checkpoints else [])]
    return [*optional, DataReceipt(run), Throughput(), Mixture(), Export(run)]
