"""Puts any checkpoint of a run into a DeepSpeed engine: another stage, another number of ranks, or a file of
another strategy.

Parameters are put together one at a time, and every rank takes its part of the weight and of what the
optimizer keeps for it. Nothing is rounded: the run goes on with the numbers that were saved.
"""

from strategies.errors import UserError
from contextlib import nullcontext
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from strategies.checkpoints.checkpoint import Saved


def restore(engine: Any, network: nn.Module, saved: Saved, training: bool) -> None:
    """Loads weights and buffers and, for training, the optimizer's states and hyperparameters.

    Args:
        engine: DeepSpeed's, new.
        network: what it wraps.
        saved: the checkpoint.
        training: whether there is an optimizer.

    Raises:
        UserError: the checkpoint's weights are not those of the network.
    """
    own = dict(network.state_dict(keep_vars=True))
    differ = sorted(own.keys() ^ saved.tensors.keys())
    differ += [name for name in own if name not in differ and _shape(own[name]) != saved.tensors[name].shape]
    if differ:
        raise UserError(f"the checkpoint does not fit the network: it differs in {', '.join(differ[:3])}")
    if training:
        _restore_groups(engine, saved)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in saved.same:
                continue
            whole = saved.weight(name)
            with _gathered(tensor):
                tensor.data.copy_(whole)
            if training and tensor.requires_grad:
                _restore_states(engine.optimizer, tensor, whole, saved, name)
    if hasattr(engine.optimizer, "checkpoint_event_epilogue"):
        engine.optimizer.checkpoint_event_epilogue()  # small parameters of stage 3 are whole everywhere


def _shape(tensor: Tensor) -> torch.Size:
    return getattr(tensor, "ds_shape", tensor.shape)


def _gathered(tensor: Tensor) -> Any:
    if not hasattr(tensor, "ds_id"):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0)


def _restore_groups(engine: Any, saved: Saved) -> None:
    """Learning rates and other hyperparameters, and the engine's own counters."""
    for group, old in zip(engine.optimizer.param_groups, saved.groups, strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
    steps = saved.facts["global_step"]
    engine.global_steps = saved.facts.get("global_steps", steps)
    engine.global_samples = saved.facts.get("global_samples", steps * engine.train_batch_size())
    engine.skipped_steps = saved.facts.get("skipped_steps", 0)
    if saved.loss_scaler is not None:
        vars(engine.optimizer.loss_scaler).update(vars(saved.loss_scaler))


def set_master(zero: Any, parameter: Tensor, whole: Tensor) -> None:
    """Gives the optimizer this rank's part of a parameter's fp32 weight.

    DeepSpeed's own `safe_set_full_fp32_param` fails in stage 3 where ranks do not divide the parameter.

    Args:
        zero: DeepSpeed's optimizer.
        parameter: of the network.
        whole: its weight.
    """
    part = _part(zero, parameter)
    if part is not None:
        part.write(part.flat.data, whole)


def _restore_states(zero: Any, parameter: Tensor, whole: Tensor, saved: Saved, name: str) -> None:
    """This rank's part of a parameter's fp32 weight and of its optimizer states."""
    part = _part(zero, parameter)
    if part is None:
        return
    part.write(part.flat.data, whole)
    state = zero.optimizer.state[part.flat]
    for key, moment in saved.moments(name).items():
        if key not in state:
            state[key] = torch.zeros_like(part.flat, dtype=moment.dtype)
        part.write(state[key], moment)
    for key, value in saved.scalars(name).items():
        if key in state:
            if state[key] != value:
                raise UserError(f"the checkpoint has another `{key}` for {name} than for its group")
        elif isinstance(value, Tensor):
            group = zero.optimizer.param_groups[0]
            there = group.get("fused") or group.get("capturable")  # torch keeps steps beside weights then
            state[key] = value.to(part.flat.device if there else "cpu", copy=True)
        else:
            state[key] = value


class _Part(NamedTuple):
    """What a rank keeps of a parameter."""

    flat: Tensor
    """the optimizer's tensor that it is in"""
    start: int
    """where in it"""
    low: int
    """where in the parameter"""
    length: int

    def write(self, into: Tensor, whole: Tensor) -> None:
        """Copies the part of `whole` into a tensor laid out as the flat one is; padding stays as it is."""
        numbers = whole.flatten()[self.low : self.low + self.length]
        into[self.start : self.start + numbers.numel()].copy_(numbers)


def _part(zero: Any, parameter: Tensor) -> _Part | None:
    """This rank's part of a trained parameter, where it has one."""
    if hasattr(parameter, "ds_id"):
        index, start, length = zero.grad_position[zero.get_param_id(parameter)]
        low = torch.distributed.get_rank() * length
        return _Part(zero.fp32_partitioned_groups_flat[index], start, low, length)
    mapping = parameter._hp_mapping  # type: ignore[attr-defined]
    if mapping is None:
        return None
    flat = zero.single_partition_of_fp32_groups[mapping.param_group_index]
    here, there = mapping.hp_fragment_address, mapping.lp_fragment_address
    return _Part(flat, here.start, there.start, there.numel)
