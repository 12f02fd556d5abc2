"""What a run goes on from: the checkpoint that `--ckpt_path` names, or the newest one that is complete."""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path

from lightning.pytorch.strategies import Strategy
from lightning.pytorch.utilities import rank_zero_only

import strategies.errors
from experiments.cli.user_errors import UserError
from strategies.atomic import finish_interrupted_save, remove_interrupted, repeat
from strategies.checkpoints.checkpoint import open_checkpoint
from strategies.checkpoints.intact import damage, newest, step_of
from strategies.zero import ZeRO

NEWEST = "newest"
OF_LIGHTNING = (None, "best", "hpc", "registry")  # which it finds by itself


def chosen_checkpoint(given: str | None, run: Path) -> str | None:
    """The path that a `--ckpt_path` means; itself where it is one, or is for Lightning to find. None where
    none of the run's is whole. Tells which ones were passed over."""
    if given != NEWEST:
        return str(_last(run)) if given == "last" else given
    path, damaged = newest(run / "checkpoints")
    for line in damaged if path else ():
        rank_zero_only(print)(f"{line}: the run goes on from {path}")
    return None if path is None else str(path)


def _last(run: Path) -> Path:
    """A run's `last.ckpt`; a callback of Lightning's own may have written a newer `last-v1.ckpt`."""
    lasts = list((run / "checkpoints").glob("last*.ckpt"))
    return max(lasts, key=step_of) if len(lasts) > 1 else run / "checkpoints" / "last.ckpt"


def tidy(run: Path) -> None:
    """Sees to what a run that was cut off has left in its folder, before another one writes to it.

    Raises:
        UserError: the folder cannot be written.
    """
    with _writing(run):
        finish_interrupted_save(run / "checkpoints")
        remove_interrupted(run / "checkpoints")


def make_last(run: Path, checkpoint: Path) -> None:
    """Lets `last.ckpt` be the run's own checkpoint that it goes on from, where it is older or damaged.

    Raises:
        UserError: the folder cannot be written.
    """
    last = run / "checkpoints" / "last.ckpt"
    if checkpoint.parent == last.parent and checkpoint != last:
        with _writing(run):
            repeat(checkpoint, last)


@contextmanager
def _writing(run: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise UserError(
            f"run: {run}/checkpoints cannot be written ({error.strerror}): make room, or mend the folder"
        ) from error


def checkpoint_errors(
    given: str | None, chosen: str | None, run: Path, strategy: Strategy, stage: str, trains: bool
) -> list[str]:
    """Why a command cannot start from the checkpoint that `--ckpt_path` gives, which means the path `chosen`;
    what Lightning finds by itself is not looked at.

    Args:
        stage: the name of the stage that it must be of.
        trains: whether a run is to go on from it.
    """
    if given in OF_LIGHTNING or "://" in str(given):
        return []
    if given == NEWEST:
        nothing = (
            f"ckpt_path: there is no complete checkpoint in {run}/checkpoints to go on from: leave it out"
        )
        return [nothing] if chosen is None else []
    path = Path(chosen or "")
    if given == "last" and not path.exists():
        return [f"ckpt_path: there is no {path} to go on from: {_instead(run) or 'leave it out'}"]
    if not path.exists():
        return [f"ckpt_path: {path} does not exist"]
    if path.is_dir() and not (path / "latest").is_file():  # DeepSpeed's checkpoints are folders
        return [_folder_error(path, run)]
    # What was offloaded to a disk only DeepSpeed itself can read, which unpickles whatever is there.
    if path.is_dir() and isinstance(strategy, ZeRO) and strategy.nvme:
        if run.resolve() in path.resolve().parents:
            return []
        return [
            f"ckpt_path: {path} holds pickles, which could run code: they are read only from the run's own "
            f"folder {run}: name the run that wrote them with --run"
        ]
    if (reason := damage(path)) is not None:
        instead = _instead(path.parent.parent)
        return [f"ckpt_path: {path} is no complete checkpoint: it {reason}{': ' if instead else ''}{instead}"]
    return _content_errors(path, stage, trains)


def _folder_error(path: Path, run: Path) -> str:
    """The line that refuses a folder which is no checkpoint."""
    if (path / "config.json").is_file():
        return (
            f"ckpt_path: {path} is an export (a Hugging Face directory): give it as the model that a stage "
            "starts from (model.pretrained; PPO: model.actor), or give a .ckpt"
        )
    for own in (path, path.parent):  # a run's folder, or its `checkpoints`
        if whole := newest(own / "checkpoints")[0]:
            return f"ckpt_path: {path} is a folder: give a checkpoint, such as {whole}"
    return f"ckpt_path: {path} is a folder: {_instead(run) or 'give a .ckpt file in it'}"


def _content_errors(path: Path, stage: str, trains: bool) -> list[str]:
    """What a whole checkpoint is not; nothing in it can run code here."""
    try:
        metadata = open_checkpoint(path).metadata
    except strategies.errors.UserError as error:
        return [f"ckpt_path: {error}"]
    of = metadata.get("stage", stage)
    if of != stage:
        return [
            f"ckpt_path: {path} is a checkpoint of stage `{of}`, this run is stage `{stage}`: give one of "
            f"stage `{stage}`, or start from the other stage's `export/` directory"
        ]
    if trains and "loops" not in metadata:
        return [
            f"ckpt_path: {path} holds weights alone, from which no run can go on: give a whole checkpoint, "
            "or export it (`trivium export`) and start from that"
        ]
    return []


def weights_line(checkpoint: str | None, run: Path, parents: Iterable[tuple[str, str | None]]) -> str:
    """What is measured or used, where nothing is trained.

    Args:
        checkpoint: the path that was given, if any.
        run: the folder of the run, which may hold one.
        parents: argument and path of what a stage starts from.
    """
    if checkpoint is not None:
        return f"weights: {checkpoint}"
    begins = ", ".join(f"model.{name} {path}" for name, path in parents if path) or "random"
    whole, _ = newest(run / "checkpoints")
    own = f", not this run's: those are `--ckpt_path newest` ({whole})" if whole else ""
    return f"weights: {begins}, as no --ckpt_path is given{own}"


def _instead(run: Path) -> str:
    """What to do where a run's own checkpoint is missing or damaged, if there is another one."""
    whole, _ = newest(run / "checkpoints")
    return f"go on from {whole}, step {step_of(whole)}, with `--ckpt_path newest`" if whole else ""
