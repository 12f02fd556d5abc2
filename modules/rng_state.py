"""The state of the random number generators, for checkpoints and for a trainer that fits again: dropout
draws from them."""

import random
from typing import Any

import numpy as np
import torch
import torch.distributed as dist


def random_state() -> dict[str, Any]:
    """The state of Python's, NumPy's, torch's and CUDA's generators."""
    version, key, position, has_gauss, gauss = np.random.get_state(legacy=True)
    return {
        "python": random.getstate(),
        "numpy": (version, np.asarray(key).tolist(), position, has_gauss, gauss),
        "torch": torch.get_rng_state(),
        "cuda": torch.cuda.get_rng_state() if torch.cuda.is_initialized() else None,
    }


def random_states() -> list[dict[str, Any]]:
    """Those of every rank; all ranks must ask."""
    state = random_state()
    if not dist.is_initialized():
        return [state]
    states: list[Any] = [None] * dist.get_world_size()
    dist.all_gather_object(states, state)
    return states


def restore_random_states(states: list[dict[str, Any]]) -> None:
    """Puts this rank's generators back; where the number of ranks has changed they are left as they are."""
    ranks = dist.get_world_size() if dist.is_initialized() else 1
    if len(states) == ranks:
        restore_random_state(states[dist.get_rank() if dist.is_initialized() else 0])


def restore_random_state(state: dict[str, Any]) -> None:
    """Puts the generators back."""
    version, key, position, has_gauss, gauss = state["numpy"]
    random.setstate(state["python"])
    np.random.set_state((version, np.array(key, dtype=np.uint32), position, has_gauss, gauss))
    torch.set_rng_state(state["torch"].cpu())
    if state["cuda"] is not None and torch.cuda.is_initialized():
        torch.cuda.set_rng_state(state["cuda"].cpu())
