"""The repeated blocks of a transformer: what is cut, gathered and recomputed one by one, and what the plan
counts as such."""

from torch import nn
from transformers import PreTrainedModel


def repeated_blocks(model: PreTrainedModel) -> list[nn.Module]:
    """The blocks in the order they compute; the same before a strategy has cut them and after.

    They are the members of the outermost `ModuleList` that holds most modules: a block's experts are a list
    too, but within it. Their classes may differ, as in networks that alternate attention and state spaces.

    Args:
        model: with or without weights.

    Raises:
        ValueError: it has no such list.
    """
    lists = [module for module in model.modules() if isinstance(module, nn.ModuleList)]
    inner = {module for blocks in lists for module in blocks.modules() if module is not blocks}
    outermost = [blocks for blocks in lists if blocks not in inner]
    found = max(outermost, key=lambda blocks: sum(1 for _ in blocks.modules()), default=())
    if not found:
        raise ValueError(
            f"model: `{model.config.model_type}` has no list of repeated blocks, by which memory is planned, "
            "strategies cut and activation_checkpointing computes again: take a network that has one, or "
            "train with strategies.ddp and without activation_checkpointing"
        )
    return list(found)
