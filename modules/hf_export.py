"""Hugging Face directories out: how a stage hands its result to the next, and to plain `transformers`."""

import json
from collections.abc import Mapping, Sequence
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig, PreTrainedModel

from modules.atomic import replaced_folder
from modules.errors import UserError
from modules.hf_load import PROVENANCE
from modules.specs import ExportSpec

PACKAGES = ("torch", "lightning", "transformers", "datasets", "deepspeed")
LANGUAGE_MODEL = "AutoModelForCausalLM"
SEQUENCE_CLASSIFIER = "AutoModelForSequenceClassification"
TOKEN_CLASSIFIER = "AutoModelForTokenClassification"
AUTO_CLASSES = (LANGUAGE_MODEL, SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER)
"""what an export may be loaded with; a checkpoint that names another class is refused"""

State = Mapping[str, Tensor]
"""a model's full tensors, by the names that the model has for them"""


def write_export(
    exports: Sequence[ExportSpec],
    states: Sequence[State],
    tokenizer: Any,
    directory: str,
    provenance: Mapping[str, Any],
    file_size: str = "50GB",  # as `transformers` has it
) -> None:
    """Writes a stage's models as Hugging Face directories, complete or not at all.

    Args:
        exports: the models, with their configs.
        states: the weights of each.
        tokenizer: goes into every directory; its pad id is not its eos id, because a sequence classifier
            pools at the last token that is not the pad id.
        directory: where to; a model's `folder` is within.
        provenance: what is said of the run, beside each model's own metadata.
        file_size: the largest file of weights, for example `5GB`.

    Raises:
        UserError: an export that names a class or a folder that it may not.
    """
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    with replaced_folder(directory) as root:
        for export, state in zip(exports, states, strict=True):
            # a name may come from a checkpoint, which might say `../..`
            if Path(export.folder).name != export.folder or export.folder == "..":
                raise UserError(f"export: {export.folder} is no plain name of a folder")
            if export.bias is not None:
                state = _token_classifier(export, state)
            model, folder = _skeleton(export, state), root / export.folder
            model.config.pad_token_id = tokenizer.pad_token_id
            model.config.eos_token_id = tokenizer.eos_token_id
            if model.can_generate():
                _set_stop_tokens(model.generation_config, tokenizer)
            model.save_pretrained(folder, state_dict=dict(state), max_shard_size=file_size)
            tokenizer.save_pretrained(folder)
            versions = {name: version(name) for name in PACKAGES}
            record = {"stage": export.stage, "parent": export.parent, "versions": versions}
            text = json.dumps({**record, **export.metadata, **provenance}, indent=2, ensure_ascii=False)
            (folder / PROVENANCE).write_text(text + "\n")


def _set_stop_tokens(generation: Any, tokenizer: Any) -> None:
    """The tokenizer's eos, then what else ends a reply; as one number where there is no other."""
    stops = generation.eos_token_id
    others = stops if isinstance(stops, list) else [] if stops is None else [stops]
    stops = list(dict.fromkeys([tokenizer.eos_token_id, *others]))
    generation.pad_token_id = tokenizer.pad_token_id
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]


def _skeleton(export: ExportSpec, state: State) -> PreTrainedModel:
    """The model without its weights, in their dtype; only its config is used, and the names of its parts."""
    if export.auto_class not in AUTO_CLASSES:
        raise UserError(f"export: {export.auto_class} is none of {', '.join(AUTO_CLASSES)}")
    config = CONFIG_MAPPING[export.config["model_type"]].from_dict(dict(export.config))
    if export.auto_class == TOKEN_CLASSIFIER:
        config.classifier_dropout = 0.0
    dtype = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    with torch.device("meta"):
        model = getattr(transformers, export.auto_class).from_config(
            config, dtype=dtype, attn_implementation="sdpa"
        )
    if export.generation_config:
        model.generation_config = GenerationConfig.from_dict(dict(export.generation_config))
    return model


def _token_classifier(export: ExportSpec, state: State) -> State:
    """The weights of a sequence classifier, by the names of a token classifier, whose head has a bias."""
    model = _skeleton(export, state)
    head = next(name for name, _ in model.named_children() if name in ("score", "classifier"))
    body = {name: tensor for name, tensor in state.items() if name.startswith(f"{model.base_model_prefix}.")}
    weight = state["score.weight"]
    return {**body, f"{head}.weight": weight, f"{head}.bias": weight.new_tensor([export.bias])}
