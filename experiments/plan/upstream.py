"""What torch has but does not publish, each behind a name that says what is missing."""

import logging

from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensorMode


def tensors_without_memory() -> FakeTensorMode:
    """While it lasts, operations give shapes and dtypes alone. The public `meta` device does less: it has no
    autocast, and so no 16-bit copies of weights to count. It logs the trace of what fails in it, which there
    is no option for, and which the caller is told anyway."""
    logging.getLogger("torch._subclasses.fake_tensor").setLevel(logging.CRITICAL)
    return FakeTensorMode(allow_non_fake_inputs=True)


def storage_id(tensor: Tensor) -> int:
    """Which memory a tensor lies in; the public `data_ptr` is not there for tensors without memory."""
    return tensor.untyped_storage()._cdata
