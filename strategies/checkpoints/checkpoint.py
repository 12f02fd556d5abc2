"""Any checkpoint of a run, parameter by parameter: a file with full tensors, or DeepSpeed's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO

from strategies.checkpoints.file_checkpoint import FileCheckpoint
from strategies.checkpoints.zero_checkpoint import ZeroCheckpoint

Checkpoint = FileCheckpoint | ZeroCheckpoint


def open_checkpoint(path: Path, trained: Sequence[str] = ()) -> Checkpoint:
    """A checkpoint of any strategy.

    Args:
        path: a file, or DeepSpeed's folder.
        trained: the names of the optimizer's parameters, in its order; a file does not tell them.

    Raises:
        UserError: it is none, is cut off, or holds what would have to run code.
    """
    return ZeroCheckpoint(path) if path.is_dir() else FileCheckpoint(path, trained)


class AnyCheckpoint(TorchCheckpointIO):
    """Lets strategies whose checkpoints are files go on from a folder of DeepSpeed."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if Path(path).is_dir():
            return ZeroCheckpoint(Path(path)).as_file()
        return super().load_checkpoint(path, *args, **kwargs)
