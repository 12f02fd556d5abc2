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

    def fingerprint(self, path: Any, name: str) -> str:
        """The same for files of the same content, wherever they lie; `name` is the field, for messages."""


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


def positions_of(model: PreTrainedModel) -> int | None:
    """How many positions a model has; None where they are relative."""
    return getattr(model.config.get_text_config(), "max_position_embeddings", None)


def check_model(model: PreTrainedModel, data: TrainingData, name: str, generated: int = 0) -> None:
    """Refuses data that a model cannot read.

    Args:
        name: of the argument that gives the model.
        generated: tokens that are added to the longest row.

    Raises:
        UserError: token ids without an embedding, or rows longer than its positions.
    """
    where = f"{name}: {model.name_or_path}" if model.name_or_path else name
    embeddings = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
    if data.vocabulary > embeddings:
        raise UserError(
            f"{where} has {embeddings} embeddings, but data.tokenizer {data.tokenizer_path} has ids up to "
            f"{data.vocabulary - 1}: give the tokenizer that belongs to it"
        )
    positions = positions_of(model)
    longest = data.longest_row + generated
    if positions is not None and longest > positions:
        raise UserError(
            f"{where} has {positions} positions, but the longest row has {longest} tokens"
            f"{' with the response' if generated else ''}: lower the data's length limit"
        )
    rope = getattr(model.config.get_text_config(), "rope_parameters", None) or {}
    for kind in (rope, *(value for value in rope.values() if isinstance(value, dict))):
        # the longest position of a whole batch decides which frequencies all of its documents get
        switch = kind.get("original_max_position_embeddings")
        if kind.get("rope_type") == "longrope" and switch is not None and longest > switch:
            raise UserError(
                f"{where} has other positions (longrope) in a text of more than {switch} tokens, but the "
                f"longest row has {longest}: lower the data's length limit to {switch}"
            )
