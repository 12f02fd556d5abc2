"""Strategies as typed functions."""

from datetime import timedelta
from typing import Literal

import torch
from lightning.pytorch.strategies import DDPStrategy
from torch.distributed.fsdp import MixedPrecisionPolicy

from strategies.errors import UserError
from strategies.fsdp2 import Sharded
from strategies.launched import Launched
from strategies.zero import ZeRO

Precision = Literal["fp32", "bf16", "fp16"]
DTYPES: dict[Precision, torch.dtype] = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}


class DDP(Launched, DDPStrategy):
    """Lightning's, which in a notebook too runs on one rank."""


def ddp(backend: str | None = None, timeout_seconds: int = 1800) -> DDP:
    """Data parallel: every rank holds the whole model, gradients are averaged.

    Args:
        backend: `nccl`, `gloo` (CPU); chosen by the device when missing.
        timeout_seconds: how long a rank waits for the others.
    """
    return DDP(
        process_group_backend=backend,
        timeout=timedelta(seconds=timeout_seconds),
        find_unused_parameters=False,
        gradient_as_bucket_view=True,
    )


def fsdp(
    shards: int | None = None,
    reshard_after_forward: bool = True,
    parameters: Precision = "fp32",
    reduction: Precision = "fp32",
    cpu_offload: bool = False,
    gather_to_sample: bool = True,
    backend: str | None = None,
    timeout_seconds: int = 1800,
) -> Sharded:
    """FSDP2: parameters, gradients and optimizer states are sharded over the ranks.

    Args:
        shards: ranks over which they are sharded, a divisor of all; all of them when missing. Fewer (the GPUs
            of a machine) make copies of the model, between which only gradients travel: hybrid shard.
        reshard_after_forward: free a block's gathered parameters until the backward pass; less memory, more
            communication.
        parameters: dtype of gathered parameters; the shards stay as the Trainer's precision makes them.
        reduction: dtype in which gradients are summed.
        cpu_offload: keep shards and optimizer states in CPU memory.
        gather_to_sample: unshard a network on every rank while it samples, which is fast; false gathers block
            by block for every token, where the network does not fit.
        backend: `nccl`, `gloo` (CPU); chosen by the device when missing.
        timeout_seconds: how long a rank waits for the others.
    """
    return Sharded(
        shards=shards,
        tensor_parallel=1,
        data_parallel=None,
        reshard_after_forward=reshard_after_forward,
        mixed_precision=_policy(parameters, reduction),
        cpu_offload=cpu_offload,
        gather_to_sample=gather_to_sample,
        backend=backend,
        timeout=timedelta(seconds=timeout_seconds),
    )


def tensor_parallel(
    tensor_parallel: int | None = None,
    data_parallel: int | None = None,
    reshard_after_forward: bool = True,
    parameters: Precision = "fp32",
    reduction: Precision = "fp32",
    cpu_offload: bool = False,
    gather_to_sample: bool = True,
    backend: str | None = None,
    timeout_seconds: int = 1800,
) -> Sharded:
    """Tensor parallel: ranks of a group share the matrices of every block, and the rows; the groups share the
    weights as under FSDP2 (2-D).

    Which matrices is the model's own plan in transformers; embedding and head are not sharded within a group.

    Args:
        tensor_parallel: ranks of a group, a divisor of the attention heads; when missing all ranks, or what
            `data_parallel` leaves. Best the GPUs of one machine: a group talks in every layer.
        data_parallel: groups; when missing what `tensor_parallel` leaves.
        reshard_after_forward: free a block's gathered parameters until the backward pass; less memory, more
            communication.
        parameters: dtype of gathered parameters; the shards stay as the Trainer's precision makes them.
        reduction: dtype in which gradients are summed.
        cpu_offload: keep shards and optimizer states in CPU memory.
        gather_to_sample: unshard a network on every rank while it samples, which is fast; false gathers block
            by block for every token, where the network does not fit.
        backend: `nccl`, `gloo` (CPU); chosen by the device when missing.
        timeout_seconds: how long a rank waits for the others.
    """
    return Sharded(
        shards=None,
        tensor_parallel=tensor_parallel,
        data_parallel=data_parallel,
        reshard_after_forward=reshard_after_forward,
        mixed_precision=_policy(parameters, reduction),
        cpu_offload=cpu_offload,
        gather_to_sample=gather_to_sample,
        backend=backend,
        timeout=timedelta(seconds=timeout_seconds),
    )


def _policy(parameters: Precision, reduction: Precision) -> MixedPrecisionPolicy:
    dtype = None if parameters == "fp32" else DTYPES[parameters]
    return MixedPrecisionPolicy(param_dtype=dtype, reduce_dtype=DTYPES[reduction])


def deepspeed(
    stage: Literal[1, 2, 3] = 2,
    offload: Literal["none", "optimizer", "parameters"] = "none",
    nvme_path: str | None = None,
    bucket_megabytes: int = 200,
    persistent_elements: int = 100_000,
    gather_to_sample: bool = True,
    backend: str | None = None,
    timeout_seconds: int = 1800,
) -> ZeRO:
    """DeepSpeed ZeRO: optimizer states, gradients and parameters are split over the ranks.

    Args:
        stage: 1 splits optimizer states, 2 gradients too, 3 parameters too.
        offload: what is kept in CPU memory instead of the GPU's: the optimizer's states with its step, or
            (stage 3) the parameters too.
        nvme_path: a folder on a fast disk that takes what is offloaded, instead of CPU memory.
        bucket_megabytes: of gradients that are reduced, and of parameters that are gathered, at once; 10⁶
            bytes.
        persistent_elements: stage 3 leaves parameters of fewer numbers unsharded: more memory, less
            communication.
        gather_to_sample: stage 3 unshards a network on every rank while it samples, which is fast; false
            gathers block by block for every token, where the network does not fit.
        backend: `nccl`, `gloo` (CPU); chosen by the device when missing.
        timeout_seconds: how long a rank waits for the others.

    Raises:
        UserError: a combination that DeepSpeed does not have.
    """
    if offload == "parameters" and stage != 3:
        raise UserError(
            f"trainer.strategy: offload is `parameters`, but stage {stage} does not split them: use stage 3, "
            "or offload the `optimizer`"
        )
    if nvme_path is not None and (offload == "none" or stage != 3):
        raise UserError(
            f"trainer.strategy: nvme_path is {nvme_path}, which only stage 3 with `offload` uses: set both, "
            "or leave it out"
        )
    if bucket_megabytes <= 0:
        raise UserError(f"trainer.strategy: bucket_megabytes is {bucket_megabytes}: give a number above 0")
    return ZeRO(
        stage=stage,
        offload=offload,
        nvme_path=nvme_path,
        bucket_bytes=bucket_megabytes * 10**6,
        persistent_elements=persistent_elements,
        gather_to_sample=gather_to_sample,
        backend=backend,
        timeout=timedelta(seconds=timeout_seconds),
    )
