"""What stages read of the data module that they are trained on, and what a model needs to read its rows."""

from collections.abc import Iterable, Sequence
from typing import Any, Protocol, cast

from torch import nn
from transformers import PreTrainedModel

from modules.errors import UserError

Batch = dict[str, Any]
"""tensors by name; the collator that makes a kind of batch documents its keys and shapes"""


class TrainingData(Protocol):
    """What every stage reads of its data module."""

    tokenizer_path: str
    """a Hugging Face directory or hub name"""
    global_batch_size: int
    """rows of an optimizer step over all ranks and micro-batches"""

    @property
    def tokenizer(self) -> Any:
        """Its pad token is never its eos token."""

    @property
    def vocabulary(self) -> int:
        """The tokenizer's ids are below it."""

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """What ends a reply: the tokenizer's eos, then its chat template's turn end where that is another."""

    @property
    def source_names(self) -> Sequence[str]:
        """What `source` in a batch counts through."""

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row of any split."""

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps (PPO: iterations) until every row has been seen once."""


class RankedData(TrainingData, Protocol):
    """What the reward model reads as well."""

    def training_sample(self, replies: int) -> Iterable[Batch]:
        """Batches of training rows with so many replies at most, over all ranks."""


def own_stop_tokens(model: PreTrainedModel, tokenizer: Any) -> list[int]:
    """What ends a reply by a model's own `generation_config`."""
    generation: Any = model.generation_config
    stops = generation.eos_token_id
    ids = stops if isinstance(stops, list) else [] if stops is None else [stops]
    if generation._from_model_config:
        # nobody chose these: they may be a config class's default, in this vocabulary any word
        return [token for token in ids if token in tokenizer.added_tokens_decoder]
    return ids


def check_model(model: PreTrainedModel, data: TrainingData, generated: int = 0) -> None:
    """Refuses data that a model cannot read.

    Args:
        generated: tokens that are added to the longest row.

    Raises:
        UserError: token ids without an embedding, or rows longer than its positions.
    """
    embeddings = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if len(data.tokenizer) > embeddings:
        raise UserError(
            f"data.tokenizer: {data.tokenizer_path} has {len(data.tokenizer)} tokens, but "
            f"{model.name_or_path or 'the model'} has {embeddings} embeddings: give the tokenizer that "
            "belongs to it"
        )
    positions = getattr(model.config, "max_position_embeddings", None)  # none where positions are relative
    longest = data.longest_row + generated
    if positions is not None and longest > positions:
        raise UserError(
            f"data: the longest row has {longest} tokens{' with the response' if generated else ''}, the "
            f"model has {positions} positions: lower the data's length limit"
        )
