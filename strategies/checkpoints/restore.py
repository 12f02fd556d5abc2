"""Puts any checkpoint of a run into a DeepSpeed engine: another stage, another number of ranks, or a file of
another strategy.

Parameters are put together one at a time, and every rank takes its part of the weight and of what the
optimizer keeps for it. Nothing is rounded: the run goes on with the numbers that were saved.
"""

from typing import Any

import torch
from torch import Tensor, nn

from strategies.checkpoints.checkpoint import Checkpoint, FileCheckpoint
from strategies.checkpoints.mapped import is_moment
from strategies.errors import UserError
from strategies.upstream import OwnPart, full_shape, own_part


def restore(engine: Any, network: nn.Module, checkpoint: Checkpoint, training: bool) -> None:
    """Loads weights and buffers into a new engine of DeepSpeed and the network that it wraps and, for
    training, the optimizer's states and hyperparameters.

    Raises:
        UserError: the checkpoint's weights are not those of the network.
    """
    import deepspeed

    own = dict(network.state_dict(keep_vars=True))
    differ = sorted(own.keys() ^ checkpoint.meta.keys())
    differ += [
        name for name in own if name not in differ and full_shape(own[name]) != checkpoint.meta[name].shape
    ]
    if differ:
        raise UserError(f"the checkpoint does not fit the network: it differs in {', '.join(differ[:3])}")
    if training:
        _restore_groups(engine, checkpoint)
        if isinstance(checkpoint, FileCheckpoint):  # Lightning's WeightAveraging puts averages in their place
            checkpoint.weights.update(checkpoint.metadata.get("current_model_state", {}))
    with torch.no_grad():
        for name, tensor in own.items():
            if name in checkpoint.tied:
                continue
            full = checkpoint.weight(name)
            with deepspeed.zero.GatheredParameters([tensor], modifier_rank=0):  # does nothing below stage 3
                tensor.data.copy_(full)
            if training and tensor.requires_grad:
                _restore_states(engine.optimizer, tensor, full, checkpoint, name)
    if hasattr(engine.optimizer, "checkpoint_event_epilogue"):
        engine.optimizer.checkpoint_event_epilogue()  # stage 3 leaves small parameters unsharded


def _restore_groups(engine: Any, checkpoint: Checkpoint) -> None:
    """Learning rates and other hyperparameters, and the engine's own counters."""
    for group, old in zip(engine.optimizer.param_groups, checkpoint.param_groups, strict=True):
        group.update({key: value for key, value in old.items() if key != "params"})
    steps = checkpoint.metadata["global_step"]
    engine.global_steps = checkpoint.metadata.get("global_steps", steps)
    engine.global_samples = checkpoint.metadata.get("global_samples", steps * engine.train_batch_size())
    engine.skipped_steps = checkpoint.metadata.get("skipped_steps", 0)
    if checkpoint.loss_scaler is not None:
        vars(engine.optimizer.loss_scaler).update(vars(checkpoint.loss_scaler))


def set_fp32_weight(optimizer: Any, parameter: Tensor, full: Tensor) -> OwnPart | None:
    """Gives DeepSpeed's optimizer this rank's part of a parameter's fp32 weight, and tells where it is."""
    part = own_part(optimizer, parameter)
    if part is not None:
        part.write(part.flat.data, full)
    return part


def _restore_states(
    optimizer: Any, parameter: Tensor, full: Tensor, checkpoint: Checkpoint, name: str
) -> None:
    """This rank's part of a parameter's fp32 weight and of its optimizer states."""
    part = set_fp32_weight(optimizer, parameter, full)
    if part is None:
        return
    state = optimizer.optimizer.state[part.flat]
    for key, value in checkpoint.states(name).items():
        if is_moment(value):
            if key not in state:
                state[key] = torch.zeros_like(part.flat, dtype=value.dtype)
            part.write(state[key], value)
        elif key in state:
            if state[key] != value:
                raise UserError(f"the checkpoint has another `{key}` for {name} than for its group")
        elif isinstance(value, Tensor):
            group = optimizer.optimizer.param_groups[0]
            beside = group.get("fused") or group.get("capturable")  # torch keeps steps beside weights then
            state[key] = value.to(part.flat.device if beside else "cpu", copy=True)
        else:
            state[key] = value
