"""A checkpoint's weights as tensors that live in files, so that models larger than memory can be written."""

import shutil
import tempfile
from pathlib import Path

import torch
from rich.progress import Progress
from torch import Tensor

from experiments.cli.user_errors import UserError
from strategies.checkpoints.checkpoint import Checkpoint
from strategies.checkpoints.zero_checkpoint import ZeroCheckpoint

OTHER_FILES = 50 * 10**6  # bytes to spare for tokenizer and configs


class MappedWeights:
    """Weights where they are in the checkpoint's file; where they must be put together or cast, in new files
    in `folder` that are mapped into memory and already have no name: they are gone when the process is.
    Without `dtype` they keep the one that they have in the checkpoint."""

    def __init__(self, checkpoint: Checkpoint, folder: Path, dtype: torch.dtype | None):
        self.checkpoint, self.folder, self.dtype = checkpoint, folder, dtype

    def bytes(self, networks: tuple[str, ...]) -> int:
        """Of the weights of some networks, tied ones once."""
        return sum(map(self._size, self._names(networks)))

    def check_space(self, networks: tuple[str, ...]) -> None:
        """Refuses (`UserError`) a disk that is too small."""
        new = sum(self._size(name) for name in self._names(networks) if self._moves(name))
        needed = self.bytes(networks) + new + OTHER_FILES
        disk = next(folder for folder in (self.folder, *self.folder.parents) if folder.exists())
        free = shutil.disk_usage(disk).free
        if free < needed:
            raise UserError(
                f"export: {disk} has {free / 1e9:.3g} GB free, but {needed / 1e9:.3g} GB are needed: name a "
                "directory on another disk"
            )

    def state(self, network: str) -> dict[str, Tensor]:
        """A network's weights by its own names; tied ones are one tensor."""
        self.folder.mkdir(parents=True, exist_ok=True)
        prefix = f"{network}."
        state: dict[str, Tensor] = {}
        names = [name for name in self.checkpoint.meta if name.startswith(prefix)]
        with Progress(transient=True) as progress:
            task = progress.add_task(f"reading {network}", total=self.bytes((network,)))
            for name in names:
                first = self.checkpoint.tied.get(name, name).removeprefix(prefix)
                state[name.removeprefix(prefix)] = state[first] if first in state else self._weight(name)
                progress.advance(task, self._size(name))
        return state

    def _names(self, networks: tuple[str, ...]) -> list[str]:
        prefixes, tied = tuple(f"{network}." for network in networks), self.checkpoint.tied
        return [name for name in self.checkpoint.meta if name.startswith(prefixes) and name not in tied]

    def _target(self, name: str) -> torch.dtype:
        own = self.checkpoint.meta[name]
        return self.dtype if self.dtype is not None and own.is_floating_point() else own.dtype

    def _size(self, name: str) -> int:
        return self.checkpoint.meta[name].numel() * self._target(name).itemsize

    def _moves(self, name: str) -> bool:
        own = self.checkpoint.meta[name].dtype
        return isinstance(self.checkpoint, ZeroCheckpoint) or self._target(name) != own

    def _weight(self, name: str) -> Tensor:
        if not self._moves(name) or not self._size(name):
            return self.checkpoint.weight(name)
        with tempfile.NamedTemporaryFile(dir=self.folder, prefix=".trivium-export-") as file:
            size = self._size(name)
            storage = torch.from_file(file.name, shared=True, size=size, dtype=torch.uint8)
        weight = storage.view(self._target(name)).view(self.checkpoint.meta[name].shape)
        self.checkpoint.copy_weight(name, weight)
        return weight
