"""What torch has but does not publish, each behind a name that says what is missing."""

import logging
from typing import Any

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode


def tensors_without_memory() -> FakeTensorMode:
    """While it lasts, operations give shapes and dtypes alone. The public `meta` device does less: it has no
    autocast, and so no 16-bit copies of weights to count. It logs the trace of what fails in it, which there
    is no option for, and which the caller is told anyway."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    return FakeTensorMode(allow_non_fake_inputs=True)


def storage_id(tensor: Tensor) -> int:
    """Which memory a tensor lies in; the public `data_ptr` is not there for tensors without memory."""
    return tensor.untyped_storage()._cdata


class GroupedProducts(TorchFunctionMode):
    """While it lasts, experts' products have shapes in every dtype: torch's own, behind the published
    `torch.nn.functional.grouped_mm`, have them in bf16 alone, so that transformers' stand-in for them is
    taken."""

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        options = kwargs or {}
        if func is torch._grouped_mm and options.get("bias") is None:
            return torch.ops.transformers.grouped_mm_fallback(*args, options["offs"])
        return func(*args, **options)
