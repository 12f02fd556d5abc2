"""A checkpoint's weights as tensors that live in files, so that models larger than memory can be written."""

import shutil
import tempfile
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from experiments.cli.user_errors import UserError
from strategies.checkpoints.checkpoint import Saved
from strategies.checkpoints.partitions import Partitions

OTHER_FILES = 50 * 10**6  # bytes to spare for tokenizer and configs


class MappedWeights:
    """Weights where they are in the checkpoint's file; where they must be put together or cast, in new files
    that are mapped into memory and already have no name: they are gone when the process is.

    Args:
        saved: the checkpoint.
        folder: on the disk for new files.
        dtype: of the weights; None = as the checkpoint has them.
    """

    def __init__(self, saved: Saved, folder: Path, dtype: torch.dtype | None):
        self.saved, self.folder, self.dtype = saved, folder, dtype

    def bytes(self, networks: tuple[str, ...]) -> int:
        """Of the weights of some networks, tied ones once."""
        return sum(self._size(name) for network in networks for name in self._names(network))

    def check_space(self, networks: tuple[str, ...]) -> None:
        """Refuses a disk that is too small.

        Raises:
            UserError: with what is needed and what is free.
        """
        new = sum(
            self._size(name) for network in networks for name in self._names(network) if self._moves(name)
        )
        needed = self.bytes(networks) + new + OTHER_FILES
        there = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(there).free
        if free < needed:
            raise UserError(
                f"export: {there} has {free / 1e9:.3g} GB free, but {needed / 1e9:.3g} GB are needed: name a "
                "directory on another disk"
            )

    def state(self, network: str) -> dict[str, Tensor]:
        """A network's weights by its own names; tied ones are one tensor."""
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = f"{network}."
        found: dict[str, Tensor] = {}
        names = [name for name in self.saved.tensors if name.startswith(prefix)]
        with Progress(transient=True) as progress:
            task = progress.add_task(f"reading {network}", total=self.bytes((network,)))
            for name in names:
                first = self.saved.same.get(name, name).removeprefix(prefix)
                found[name.removeprefix(prefix)] = found[first] if first in found else self._weight(name)
                progress.advance(task, self._size(name))
        return found

    def _names(self, network: str) -> list[str]:
        names = self.saved.tensors
        return [name for name in names if name.startswith(f"{network}.") and name not in self.saved.same]

    def _target(self, name: str) -> torch.dtype:
        own = self.saved.tensors[name]
        return self.dtype if self.dtype is not None and own.is_floating_point() else own.dtype

    def _size(self, name: str) -> int:
        return self.saved.tensors[name].numel() * self._target(name).itemsize

    def _moves(self, name: str) -> bool:
        return isinstance(self.saved, Partitions) or self._target(name) != self.saved.tensors[name].dtype

    def _weight(self, name: str) -> Tensor:
        if not self._moves(name) or not self._size(name):
            return self.saved.weight(name)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".trivium-export-") as file:
            size = self._size(name)
            storage = torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
        weight = storage.view(self._target(name)).view(self.saved.tensors[name].shape)
        self.saved.copy_weight(name, weight)
        return weight
