"""Room on the disk for a run's checkpoints and its export, found out by the configuration before anything is
read, and before the first step by what is there then."""

import shutil
from collections import defaultdict
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import lightning as L
import torch
from lightning.pytorch.callbacks import Callback, ModelCheckpoint
from torch import Tensor, nn

from experiments.callbacks.upstream import planned_saves
from experiments.cli.user_errors import UserError
from experiments.plan.config import Run
from experiments.plan.units import size
from modules.averaging import averaging_of
from modules.export_check import export_bytes
from strategies.checkpoints.checkpoint_size import Saved, checkpoint_bytes, saved_of
from strategies.checkpoints.intact import checkpoints


class Kept(NamedTuple):
    """What a callback keeps in a folder."""

    folder: Path
    number: int
    """checkpoints, once the run has gone on for long"""
    each: int
    """bytes"""

    @property
    def there(self) -> int:
        """Bytes of those that lie there already and will be replaced."""
        return sum(bytes_of(path) for path in list(checkpoints(self.folder))[: self.number])


class DiskSpace(Callback):
    """Refuses a run whose checkpoints and export would not fit on the disk.

    Args:
        run: its folder.
    """

    def __init__(self, run: str):
        self.run = Path(run)

    def on_fit_start(self, trainer: L.Trainer, pl_module: L.LightningModule) -> None:
        if not trainer.is_global_zero:
            return
        trained = next((p for p in pl_module.parameters() if p.requires_grad), torch.zeros(()))
        models = [pl_module.get_submodule(spec.module) for spec in pl_module.exports()]  # type: ignore[operator]
        states = state_bytes(pl_module, trained.dtype)
        self._check(list(kept_checkpoints(trainer, saved_of(pl_module), states)), export_bytes(models))

    def check_plan(self, trainer: L.Trainer, stage: L.LightningModule, plan: Run) -> None:
        """Refuses the same by what the configuration says of the networks, before any of it is read.

        Raises:
            UserError: there is no room.
        """
        saved = planned(plan)
        states = state_bytes(stage, torch.bfloat16 if saved.width == 2 else torch.float32)
        exported = sum(network.sizes.parameters for network in plan.networks if network.trained)
        self._check(list(kept_checkpoints(trainer, saved, states)), 4 * exported)

    def _check(self, kept: list[Kept], export: int) -> None:
        kept.append(Kept(self.run, 0, export))
        by_disk: dict[int, list[Kept]] = defaultdict(list)
        for each in kept:
            by_disk[_existing(each.folder).stat().st_dev].append(each)
        errors = []
        for on_disk in by_disk.values():
            needed = sum(each.number * each.each - each.there for each in on_disk)
            needed += max(each.each for each in on_disk)  # written beside what it replaces
            if on_disk[-1].folder == self.run:
                needed -= bytes_of(self.run / ".before")  # of `--overwrite`: removed after the first step
            free = shutil.disk_usage(_existing(on_disk[0].folder)).free
            if free < needed:
                errors.append(_refusal(on_disk, needed, free))
        if errors:
            raise UserError("\n".join(errors))


def planned(plan: Run) -> Saved:
    """What a checkpoint will hold of the networks of a configuration."""
    width = plan.parallelism.bytes_per_param(plan.precision).weights
    trained = sum(each.sizes.parameters for each in plan.networks if each.trained)
    return Saved(width * sum(each.sizes.parameters for each in plan.networks), trained, width)


def kept_checkpoints(trainer: L.Trainer, saved: Saved, states: int) -> Iterator[Kept]:
    """What each of the trainer's callbacks will keep, and where.

    Args:
        trainer: with its callbacks.
        saved: of its stage.
        states: bytes that the optimizer keeps for each trained number.
    """
    whole = checkpoint_bytes(trainer.strategy, saved, states, averages=len(averaging_of(trainer)))
    for callback in trainer.checkpoint_callbacks:
        if not isinstance(callback, ModelCheckpoint) or callback.dirpath is None:
            continue
        saves = planned_saves(callback, trainer)
        top = saves if callback.save_top_k < 0 else min(callback.save_top_k, saves)
        last = 1 if callback.save_last is True or (callback.save_last and not top) else 0
        each = checkpoint_bytes(trainer.strategy, saved, None) if callback.save_weights_only else whole
        if top + last and "://" not in str(callback.dirpath):
            yield Kept(Path(callback.dirpath), top + last, each)


def state_bytes(stage: Any, dtype: torch.dtype) -> int:
    """Bytes that a stage's optimizer keeps for each number of a type that it trains, found by a step of a
    small one; what it keeps for rows or for all of a matrix is too little to count."""
    small = nn.Parameter(torch.zeros(2, 3, dtype=dtype))
    small.grad = torch.zeros_like(small)
    try:
        optimizer = stage.make_optimizer([{"params": [small], "lr": 0.0}])
        optimizer.step()
        states: Iterable[Any] = optimizer.state[small].values()
    except Exception:  # optimizers are anybody's: two numbers, as Adam's
        return 2 * small.element_size()
    each = [state for state in states if isinstance(state, Tensor) and state.shape == small.shape]
    return sum(state.element_size() for state in each)


def bytes_of(path: Path) -> int:
    """What a file, or a folder with all that is in it, takes."""
    files = path.rglob("*") if path.is_dir() else [path]
    return sum(file.stat().st_size for file in files if file.is_file() and not file.is_symlink())


def _existing(folder: Path) -> Path:
    return next(each for each in (folder, *folder.absolute().parents) if each.exists())


def _refusal(on_disk: list[Kept], needed: int, free: int) -> str:
    checkpoint = max((each.each for each in on_disk if each.number), default=0)
    number = sum(each.number for each in on_disk)
    what = f"{number} checkpoints of {size(checkpoint, 3)} are kept" if number else "an export is written"
    beside = ", and what replaces one is written beside it" if number else ""
    return (
        f"run: {on_disk[0].folder} needs {size(needed, 3)} more ({needed} bytes: {what}{beside}), but its "
        f"disk has {size(free, 3)} free ({free} bytes): make room, give another --run"
        f"{', or keep fewer checkpoints (save_top_k, save_last)' if number else ''}"
    )
