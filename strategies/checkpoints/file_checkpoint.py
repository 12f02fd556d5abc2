"""A checkpoint that is one file with full tensors, as every strategy but DeepSpeed writes it."""

import zipfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from strategies.checkpoints.mapped import mapped_file, moments_of, scalars_of
from strategies.errors import UserError


class FileCheckpoint:
    """A checkpoint of any strategy but DeepSpeed; its attributes are those of `ZeroCheckpoint`.

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

    def moments(self, name: str) -> dict[str, Tensor]:
        """What the optimizer keeps for each number of a trained parameter."""
        return moments_of(self._states(name))

    def scalars(self, name: str) -> dict[str, Any]:
        """What the optimizer keeps for a trained parameter as a whole: its step."""
        return scalars_of(self._states(name))

    def _states(self, name: str) -> dict[str, Any]:
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
