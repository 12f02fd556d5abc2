"""Puts any checkpoint of a run into a DeepSpeed engine: another stage, another number of ranks, or a file of
another strategy.

Parameters are put together one at a time, and every rank takes its part of the weight and of what the
optimizer keeps for it. Nothing is rounded: the run goes on with the numbers that were saved.
"""

from contextlib import nullcontext
from typing import Any

import torch
from torch import Tensor, nn

from strategies.checkpoints.checkpoint import Checkpoint
from strategies.errors import UserError
from strategies.upstream import full_shape, is_sharded, own_part


def restore(engine: Any, network: nn.Module, checkpoint: Checkpoint, training: bool) -> None:
    """Loads weights and buffers and, for training, the optimizer's states and hyperparameters.

    Args:
        engine: DeepSpeed's, new.
        network: what it wraps.
        checkpoint: of any strategy.
        training: whether there is an optimizer.

    Raises:
        UserError: the checkpoint's weights are not those of the network.
    """
    own = dict(network.state_dict(keep_vars=True))
    differ = sorted(own.keys() ^ checkpoint.meta.keys())
    differ += [
        name for name in own if name not in differ and full_shape(own[name]) != checkpoint.meta[name].shape
    ]
    if differ:
        raise UserError(f"the checkpoint does not fit the network: it differs in {', '.join(differ[:3])}")
    if training:
        _restore_groups(engine, checkpoint)
    with torch.no_grad():
        for name, tensor in own.items():
            if name in checkpoint.tied:
                continue
            full = checkpoint.weight(name)
            with _gathered(tensor):
                tensor.data.copy_(full)
            if training and tensor.requires_grad:
                _restore_states(engine.optimizer, tensor, full, checkpoint, name)
    if hasattr(engine.optimizer, "checkpoint_event_epilogue"):
        engine.optimizer.checkpoint_event_epilogue()  # stage 3 leaves small parameters unsharded


def _gathered(tensor: Tensor) -> Any:
    if not is_sharded(tensor):
        return nullcontext()
    import deepspeed

    return deepspeed.zero.GatheredParameters([tensor], modifier_rank=0)


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


def set_fp32_weight(optimizer: Any, parameter: Tensor, full: Tensor) -> None:
    """Gives DeepSpeed's optimizer this rank's part of a parameter's fp32 weight.

    Args:
        optimizer: DeepSpeed's.
        parameter: of the network.
        full: its weight.
    """
    part = own_part(optimizer, parameter)
    if part is not None:
        part.write(part.flat.data, full)


def _restore_states(
    optimizer: Any, parameter: Tensor, full: Tensor, checkpoint: Checkpoint, name: str
) -> None:
    """This rank's part of a parameter's fp32 weight and of its optimizer states."""
    part = own_part(optimizer, parameter)
    if part is None:
        return
    part.write(part.flat.data, full)
    state = optimizer.optimizer.state[part.flat]
    for key, moment in checkpoint.moments(name).items():
        if key not in state:
            state[key] = torch.zeros_like(part.flat, dtype=moment.dtype)
        part.write(state[key], moment)
    for key, value in checkpoint.scalars(name).items():
        if key in state:
            if state[key] != value:
                raise UserError(f"the checkpoint has another `{key}` for {name} than for its group")
        elif isinstance(value, Tensor):
            group = optimizer.optimizer.param_groups[0]
            beside = group.get("fused") or group.get("capturable")  # torch keeps steps beside weights then
            state[key] = value.to(part.flat.device if beside else "cpu", copy=True)
        else:
            state[key] = value
