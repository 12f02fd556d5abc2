"""What a stage says of itself, as plain values: to the plan from its arguments alone, and to an export from a
checkpoint alone."""

import json
from collections.abc import Mapping, Sequence
from typing import Any, Literal, NamedTuple


class NetworkSpec(NamedTuple):
    """One of a stage's networks, known before anything is built."""

    name: str
    """what a plan calls it"""
    argument: str
    """the stage's argument that gives it, which a refusal names"""
    source: str | dict[str, Any]
    """a Hugging Face directory or hub name, or the config of a network from scratch"""
    head: Literal["language", "scalar"]
    trained: bool


class SamplingSpec(NamedTuple):
    """How a stage samples before it trains."""

    rows: int
    """sequences sampled together"""
    new_tokens: int
    """of a response at most"""
    epochs: int
    """passes over an iteration's samples"""
    updates: int
    """optimizer steps of an iteration"""
    micro_batch_size: int
    """sequences of one training forward"""


class Goal(NamedTuple):
    """The metric of its validation that tells how good a stage is."""

    metric: str
    more_is_better: bool = False


class ExportSpec(NamedTuple):
    """One of a stage's models as a Hugging Face directory.

    It goes into every checkpoint as plain data, so that `trivium export` needs nothing of the stage.
    """

    module: str
    """the `transformers` model's name within the stage, as `network.model`"""
    auto_class: str
    """the class of `transformers` that loads the directory, one of `modules.hf_export.AUTO_CLASSES`"""
    stage: str
    """what the directory is the result of"""
    parent: str | None
    """what training started from"""
    folder: str = ""
    """its place within the export, a plain name"""
    metadata: Mapping[str, Any] = {}
    """what else its provenance says"""
    unmeasured: Mapping[str, str] = {}
    """numbers of `metadata` that are measured when training ends, and 0 until then → what they are"""
    bias: float | None = None
    """of a token classifier made of a scalar head, which has none"""
    config: Mapping[str, Any] = {}
    """the model's, filled in from the model"""
    generation_config: Mapping[str, Any] | None = None
    """where it generates"""

    def with_configs_of(self, model: Any, stop_token_ids: Sequence[int]) -> "ExportSpec":
        """The same, with what the `transformers` model itself says, and what ends its replies."""
        # transformers' own text of a config writes infinity in a way that its reader refuses
        config = json.loads(json.dumps(model.config.to_dict(), default=str))
        if not model.can_generate():
            return self._replace(config=config)
        generation = json.loads(model.generation_config.to_json_string())
        generation.pop("_from_model_config", None)  # the stop tokens are from here on what somebody chose
        return self._replace(
            config=config, generation_config={**generation, "eos_token_id": list(stop_token_ids)}
        )
