"""Any checkpoint of a run, parameter by parameter: a file with full tensors, or DeepSpeed's folder."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from strategies.atomic import part_of, put_in_place, refused_writes, remove, remove_leftovers
from strategies.checkpoints.mapped import mapped_file
from strategies.checkpoints.zero_checkpoint import ZeroCheckpoint
from strategies.errors import UserError


class FileCheckpoint:
    """A checkpoint of any strategy but DeepSpeed; its attributes are those of `ZeroCheckpoint`. `trained`,
    the names of the optimizer's parameters, is needed for `states` only.

    Raises:
        UserError: it is none, is cut off, or holds what would have to run code.
    """

    loss_scaler = None

    def __init__(self, path: Path, trained: Sequence[str] = ()):
        content = mapped_file(path)
        if "state_dict" not in content:
            raise UserError(f"{path} is no checkpoint of a run: it has no `state_dict`")
        self.weights: dict[str, Tensor] = content.pop("state_dict")
        optimizers = content.pop("optimizer_states", [])
        self.optimizer: dict[str, Any] = optimizers[0] if optimizers else {"state": {}, "param_groups": []}
        self.metadata: dict[str, Any] = content
        self.trained = list(trained)
        self.meta = {name: tensor.to("meta") for name, tensor in self.weights.items()}
        self.tied = _tied(self.weights)

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self.optimizer["param_groups"]

    def weight(self, name: str) -> Tensor:
        """A weight as it was saved."""
        return self.weights[name]

    def copy_weight(self, name: str, into: Tensor) -> None:
        """Copies a weight into a tensor, of another dtype perhaps."""
        into.copy_(self.weights[name])

    def states(self, name: str) -> dict[str, Any]:
        """What the optimizer keeps for a trained parameter: for each of its numbers, and its step."""
        return self.optimizer["state"].get(self.trained.index(name), {})


def _tied(weights: dict[str, Tensor]) -> dict[str, str]:
    """Names of weights that share their memory with an earlier one → its name."""
    first: dict[tuple, str] = {}
    tied = {}
    for name, tensor in weights.items():
        if tensor.numel():
            earlier = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
            if earlier != name:
                tied[name] = earlier
    return tied


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
    """Writes files that are complete or not there, and lets strategies whose checkpoints are files go on from
    a folder of DeepSpeed. Lightning's own makes a copy in memory, one in the folder for temporary files, and
    writes that over the checkpoint before."""

    def save_checkpoint(self, checkpoint: dict[str, Any], path: Any, storage_options: Any = None) -> None:
        """Writes a file beside its place; what was there stays until the file is on the disk.

        Raises:
            UserError: it cannot be written, as on a full disk.
        """
        target = Path(path)
        with refused_writes(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            remove_leftovers(target)
            try:
                with part_of(target).open("wb") as file:
                    torch.save(checkpoint, file)
                put_in_place(target)
            finally:
                part_of(target).unlink(missing_ok=True)

    def remove_checkpoint(self, path: Any) -> None:
        """Removes a file or a folder; what is left of a folder when this is cut off is taken for none."""
        remove(Path(path))

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if Path(path).is_dir():
            return ZeroCheckpoint(Path(path)).as_file()
        return super().load_checkpoint(path, *args, **kwargs)
