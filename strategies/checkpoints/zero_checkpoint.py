"""A checkpoint that is DeepSpeed's folder, read parameter by parameter, whatever stage and ranks it was
written with.

Ranks shard all parameters of an optimizer group, laid end to end, into equal parts (stages 1 and 2), or every
parameter on its own (stage 3).
"""

import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from strategies.checkpoints.mapped import LossScaler, is_moment, mapped_file
from strategies.errors import UserError

RANK_FILE = re.compile(r"(?:bf16_|fp16_)?zero_pp_rank_(\d+)_mp_rank_00_(optim|model)_states\.pt")
ENGINE_KEYS = (  # what DeepSpeed adds to Lightning's own checkpoint
    *("module", "buffer_names", "optimizer", "param_shapes", "frozen_param_shapes", "shared_params"),
    *("frozen_param_fragments", "lr_scheduler", "data_sampler", "random_ltd", "ds_config", "ds_version"),
    *("dp_world_size", "mp_world_size", "checkpoint_parallel_dimensions"),
)


class Piece(NamedTuple):
    """A run of a parameter's numbers in one rank's file."""

    rank: int
    start: int
    length: int


class Place(NamedTuple):
    """Where a trained parameter is."""

    shape: torch.Size
    flat: int
    """index of the flat tensor that holds it, in every rank's file"""
    pieces: list[Piece]


class ZeroCheckpoint:
    """A checkpoint written under DeepSpeed, from its folder.

    Raises:
        UserError: it is none, is incomplete, or holds what would have to run code.
    """

    def __init__(self, path: Path):
        files = _files(path)
        self.models = [mapped_file(file) for file in files["model"]]
        ranks = [mapped_file(file)["optimizer_state_dict"] for file in files["optim"]]
        self.ranks = len(ranks)
        model = self.models[0]
        if model.get("dp_world_size") != self.ranks:
            raise UserError(
                f"{path} was written by {model.get('dp_world_size')} ranks and has files of {self.ranks}: "
                "part of it is missing"
            )
        self.stage = int(ranks[0]["zero_stage"])
        together = self.stage < 3
        flats = "single_partition_of_fp32_groups" if together else "fp32_flat_groups"
        inner = "base_optimizer_state" if together else "optimizer_state_dict"
        self.masters: list[list[Tensor]] = [rank[flats] for rank in ranks]
        self.optimizers: list[dict[str, Any]] = [rank[inner] for rank in ranks]
        self.loss_scaler: LossScaler | None = ranks[0]["loss_scaler"]
        self.places = (
            _sharded_together(model, ranks, self.masters) if together else _sharded_alone(model, self.ranks)
        )
        self.metadata: dict[str, Any] = {key: model[key] for key in model if key not in ENGINE_KEYS}
        self.tied: dict[str, str] = dict(model["shared_params"])
        """name → the name of the same parameter under which it is saved"""
        self.frozen: dict[str, torch.Size] = {} if together else dict(model["frozen_param_shapes"])
        self.meta = {name: self._meta(name, tensor) for name, tensor in model["module"].items()}
        """every weight and buffer without its numbers, in the order of a state dict"""

    def _meta(self, name: str, tensor: Tensor) -> Tensor:
        name = self.tied.get(name, name)
        if name in self.places:
            place = self.places[name]
            return torch.empty(place.shape, dtype=self.masters[0][place.flat].dtype, device="meta")
        return torch.empty(self.frozen.get(name, tensor.shape), dtype=tensor.dtype, device="meta")

    @property
    def trained(self) -> list[str]:
        """The names of trained parameters, in the optimizer's order."""
        order = [flat for group in self.param_groups for flat in group["params"]]
        return sorted(self.places, key=lambda name: order.index(self.places[name].flat))

    @property
    def param_groups(self) -> list[dict[str, Any]]:
        """The optimizer's groups: hyperparameters, and as `params` the flat tensors."""
        return self.optimizers[0]["param_groups"]

    def weight(self, name: str) -> Tensor:
        """A full weight: fp32 as the optimizer has it where it is trained, else as it is."""
        meta = self.meta[name]
        full = torch.empty(meta.shape, dtype=meta.dtype)
        self.copy_weight(name, full)
        return full

    def copy_weight(self, name: str, into: Tensor) -> None:
        """Copies a weight into a full tensor, of another dtype perhaps, with no memory of its own."""
        name = self.tied.get(name, name)
        if name in self.places:
            self._join(name, None, into)
        elif name in self.frozen:
            parts = [model["frozen_param_fragments"][name].flatten() for model in self.models]
            _lay_out(parts, into)
        else:
            into.copy_(self.models[0]["module"][name])

    def states(self, name: str) -> dict[str, Any]:
        """What the optimizer keeps for a trained parameter, in tensors of its own: for each number, in full,
        and its step."""
        place = self.places[name]
        states = dict(self.optimizers[0]["state"].get(place.flat, {}))
        for key, value in states.items():
            if is_moment(value):
                states[key] = self._join(name, key, torch.empty(place.shape, dtype=value.dtype))
            elif isinstance(value, Tensor):
                states[key] = value.clone()
        return states

    def as_file(self) -> dict[str, Any]:
        """The same as a checkpoint of any other strategy: full tensors, and the optimizer's states by the
        position of a parameter."""
        weights = {name: self.weight(name) for name in self.meta if name not in self.tied}
        state = {name: weights[self.tied.get(name, name)] for name in self.meta}
        trained = self.trained
        states = {i: self.states(name) for i, name in enumerate(trained)}
        flats = [self.places[name].flat for name in trained]
        groups = [
            {**group, "params": [i for i, flat in enumerate(flats) if flat in group["params"]]}
            for group in self.param_groups
        ]
        kept = {i: entries for i, entries in states.items() if entries}
        optimizer = {"state": kept, "param_groups": groups}
        return {**self.metadata, "state_dict": state, "optimizer_states": [optimizer]}

    def _join(self, name: str, key: str | None, into: Tensor) -> Tensor:
        """Puts a trained parameter's fp32 weight together or, where a key is given, one of its states."""
        place, parts = self.places[name], []
        for rank, start, length in place.pieces:
            states = self.optimizers[rank]["state"]
            flat = self.masters[rank][place.flat] if key is None else states[place.flat][key]
            parts.append(flat[start : start + length])
        return _lay_out(parts, into)


def _lay_out(parts: Sequence[Tensor], into: Tensor) -> Tensor:
    """Copies vectors end to end into a contiguous tensor, as much as it holds."""
    room = into.view(-1)
    with torch.no_grad():
        for part in parts:
            part = part[: room.numel()]
            room[: part.numel()].copy_(part)
            room = room[part.numel() :]
    return into


def _files(path: Path) -> dict[str, list[Path]]:
    """`model` and `optim` → their files, by rank."""
    latest = path / "latest"
    folder = path / latest.read_text().strip() if latest.is_file() else path
    files: dict[str, dict[int, Path]] = {"model": {}, "optim": {}}
    for file in folder.iterdir() if folder.is_dir() else ():
        name = RANK_FILE.fullmatch(file.name)
        if name:
            files[name[2]][int(name[1])] = file
    full = folder / "mp_rank_00_model_states.pt"  # stages 1 and 2: every rank has the same
    if full.is_file():
        files["model"] = {0: full}
    if not files["model"] or not files["optim"]:
        raise UserError(
            f"{path} is no checkpoint of DeepSpeed: it has no *_states.pt in the folder `latest` names"
        )
    return {kind: [ranks[rank] for rank in sorted(ranks)] for kind, ranks in files.items()}


def _sharded_together(model: dict, ranks: list[dict], masters: list[list[Tensor]]) -> dict[str, Place]:
    """Stages 1 and 2: a group's parameters, end to end with their alignment, are sharded into equal parts."""
    places = {}
    for flat, shapes in enumerate(model["param_shapes"]):
        # the weights are saved without the padding that makes every rank's part as long
        size = masters[0][flat].numel() + ranks[0]["group_paddings"][flat]
        gaps = ranks[0].get("param_alignment_paddings", [])
        start = 0
        for index, (name, shape) in enumerate(shapes.items()):
            end = start + shape.numel()
            pieces = []
            for rank in range(start // size, math.ceil(end / size)):
                low, high = max(start, rank * size), min(end, (rank + 1) * size)
                pieces.append(Piece(rank, low - rank * size, high - low))
            places[name] = Place(shape, flat, pieces)
            start = end + (gaps[flat][index] if gaps else 0)
    return places


def _sharded_alone(model: dict, ranks: int) -> dict[str, Place]:
    """Stage 3: every parameter is sharded into equal parts, the last one padded, which lie end to end."""
    places = {}
    for flat, shapes in enumerate(model["param_shapes"]):
        start = 0
        for name, shape in shapes.items():
            part, left, pieces = math.ceil(shape.numel() / ranks), shape.numel(), []
            for rank in range(ranks):
                pieces.append(Piece(rank, start, max(0, min(part, left))))
                left -= part
            places[name] = Place(shape, flat, pieces)
            start += part
    return places
