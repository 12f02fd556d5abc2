"""What a run goes on from: the checkpoint that `--ckpt_path` names, or the newest one that is complete."""

from pathlib import Path

from lightning.pytorch.strategies import Strategy

from experiments.cli.user_errors import USER_ERRORS, UserError
from strategies.atomic import finish_interrupted_save, remove_interrupted, repeat
from strategies.checkpoints.checkpoint import open_checkpoint
from strategies.zero import ZeRO

NEWEST = "newest"
OF_LIGHTNING = (None, "best", "hpc", "registry")  # which it finds by itself


def step_of(path: Path) -> int | None:
    """The optimizer steps of a checkpoint that a run can go on from; None where it is none or cut off."""
    try:
        metadata = open_checkpoint(path).metadata
    except (*USER_ERRORS, OSError, KeyError):
        return None
    return int(metadata["global_step"]) if "loops" in metadata else None


def newest_checkpoint(run: Path) -> Path | None:
    """The complete checkpoint of a run that has the most steps."""
    steps = {path: step_of(path) for path in sorted((run / "checkpoints").glob("*.ckpt"))}
    complete = {path: step for path, step in steps.items() if step is not None}
    # `last.ckpt` before another one of its step
    return max(complete, key=lambda path: (complete[path], path.name == "last.ckpt"), default=None)


def tidy(run: Path, given: str | None, writes: bool) -> None:
    """Sees to what a run that was cut off has left in its folder.

    Args:
        run: the folder.
        given: as `--ckpt_path` says; with `newest`, `last.ckpt` becomes that one if it is older or cut off.
        writes: whether this process is the one that writes to the folder.

    Raises:
        UserError: the folder cannot be written.
    """
    folder = run / "checkpoints"
    try:
        finish_interrupted_save(folder)
        if not writes:
            return
        remove_interrupted(folder)
        newest = newest_checkpoint(run) if given == NEWEST else None
        if newest is not None and newest.name != "last.ckpt":
            repeat(newest, folder / "last.ckpt")
    except OSError as error:
        raise UserError(
            f"run: {folder} cannot be written ({error.strerror}): make room, or mend the folder"
        ) from error


def checkpoint_errors(given: str | None, run: Path, strategy: Strategy) -> list[str]:
    """Why a run cannot go on from the checkpoint that `--ckpt_path` gives; what Lightning finds by itself is
    not looked at."""
    if given in OF_LIGHTNING:
        return []
    if given == NEWEST:
        nothing = (
            f"ckpt_path: there is no complete checkpoint in {run}/checkpoints to go on from: leave it out"
        )
        return [] if newest_checkpoint(run) else [nothing]
    path = run / "checkpoints" / "last.ckpt" if given == "last" else Path(given or "")
    if given == "last" and not path.exists():
        return [f"ckpt_path: there is no {path} to go on from: {_instead(run) or 'leave it out'}"]
    if not path.exists():
        return [f"ckpt_path: {path} does not exist"]
    if path.is_dir() and not (path / "latest").is_file():  # DeepSpeed's checkpoints are folders
        return [f"ckpt_path: {path} is a folder: {_instead(run) or 'give a .ckpt file in it'}"]
    # What was offloaded to a disk only DeepSpeed itself can read, which unpickles whatever is there.
    if path.is_dir() and isinstance(strategy, ZeRO) and strategy.nvme:
        if run.resolve() in path.resolve().parents:
            return []
        return [
            f"ckpt_path: {path} holds pickles, which could run code: they are read only from the run's own "
            f"folder {run}: name the run that wrote them with --run"
        ]
    try:
        open_checkpoint(path)
    except USER_ERRORS as error:
        return [f"ckpt_path: {error}{': ' if _instead(run) else ''}{_instead(run)}"]
    return []


def _instead(run: Path) -> str:
    """What to do where a run's own checkpoint is missing or cut off, if there is another one."""
    newest = newest_checkpoint(run)
    return f"go on from {newest}, step {step_of(newest)}, with `--ckpt_path newest`" if newest else ""
