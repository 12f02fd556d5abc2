"""Any checkpoint of a run, parameter by parameter: a file with whole tensors, or DeepSpeed's folder."""

from strategies.errors import UserError
import zipfile
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from lightning.pytorch.plugins.io import TorchCheckpointIO
from torch import Tensor

from strategies.checkpoints.partitions import Partitions, mapped


class WholeFile:
    """A checkpoint of any strategy but DeepSpeed; its attributes are those of `Partitions`.

    Args:
        path: the file.
        trained: the names of the optimizer's parameters, in its order; needed for its states only.

    Raises:
        UserError: it is none, is cut off, or holds what would have to run code.
    """

    loss_scaler = None

    def __init__(self, path: Path, trained: Sequence[str] = ()):
        if not zipfile.is_zipfile(path):
            raise UserError(f"{path} is no complete checkpoint: it was cut off or is something else")
        found = mapped(path)
        if "state_dict" not in found:
            raise UserError(f"{path} is no checkpoint of a run: it has no `state_dict`")
        self.weights: dict[str, Tensor] = found.pop("state_dict")
        optimizers = found.pop("optimizer_states", [])
        self.optimizer: dict[str, Any] = optimizers[0] if optimizers else {"state": {}, "param_groups": []}
        self.facts: dict[str, Any] = found
        self.trained = list(trained)
        self.tensors = {name: tensor.to("meta") for name, tensor in self.weights.items()}
        first: dict[tuple, str] = {}
        self.same: dict[str, str] = {}
        for name, tensor in self.weights.items():
            if tensor.numel():
                known = first.setdefault((tensor.data_ptr(), tensor.shape, tensor.stride()), name)
                if known != name:
                    self.same[name] = known

    @property
    def groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups."""
        return self.optimizer["param_groups"]

    def weight(self, name: str) -> Tensor:
        """A weight as it was saved."""
        return self.weights[name]

    def copy_weight(self, name: str, into: Tensor) -> None:
        """Copies a weight into a tensor, of another dtype perhaps."""
        into.copy_(self.weights[name])

    def moments(self, name: str) -> dict[str, Tensor]:
        """What the optimizer keeps for each number of a trained parameter."""
        states = self._states(name)
        return {key: value for key, value in states.items() if isinstance(value, Tensor) and value.ndim}

    def scalars(self, name: str) -> dict[str, Any]:
        """What the optimizer keeps for a trained parameter as a whole: its step."""
        states = self._states(name)
        return {key: value for key, value in states.items() if not (isinstance(value, Tensor) and value.ndim)}

    def _states(self, name: str) -> dict[str, Any]:
        return self.optimizer["state"].get(self.trained.index(name), {})


Saved = WholeFile | Partitions


def open_checkpoint(path: Path, trained: Sequence[str] = ()) -> Saved:
    """A checkpoint of any strategy.

    Args:
        path: a file, or DeepSpeed's folder.
        trained: the names of the optimizer's parameters, in its order; a file does not tell them.

    Raises:
        UserError: it is none, is cut off, or holds what would have to run code.
    """
    return Partitions(path) if path.is_dir() else WholeFile(path, trained)


def finish_interrupted_save(folder: Path) -> None:
    """Puts a checkpoint back that a newer one was about to take the place of when the run was cut off."""
    for old in folder.glob("*.old"):
        target = old.with_name(old.name.removesuffix(".old"))
        if not target.exists():
            with suppress(FileNotFoundError):  # another rank was faster
                old.rename(target)


class AnyCheckpoint(TorchCheckpointIO):
    """Lets strategies whose checkpoints are files go on from a folder of DeepSpeed."""

    def load_checkpoint(self, path: Any, *args: Any, **kwargs: Any) -> dict[str, Any]:
        if Path(path).is_dir():
            return Partitions(Path(path)).as_file()
        return super().load_checkpoint(path, *args, **kwargs)
