"""Hugging Face directories out: how a stage hands its result to the next, and to plain `transformers`."""

import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
import transformers
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor
from transformers import CONFIG_MAPPING, GenerationConfig, PretrainedConfig, PreTrainedModel

from modules.atomic import replaced_folder
from modules.backbone import ScalarModel
from modules.errors import UserError
from modules.hf_config import in_a_line
from modules.hf_load import PROVENANCE
from modules.hf_tokenizer import save_tokenizer, with_pad_token
from modules.probe_config import as_a_copy, config_of, fields_of, small_configs
from modules.specs import ExportSpec

PACKAGES = ("torch", "lightning", "transformers", "datasets", "deepspeed")
LANGUAGE_MODEL = "AutoModelForCausalLM"
SEQUENCE_CLASSIFIER = "AutoModelForSequenceClassification"
TOKEN_CLASSIFIER = "AutoModelForTokenClassification"
AUTO_CLASSES = (LANGUAGE_MODEL, SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER)
"""what an export may be loaded with; a checkpoint that names another class is refused"""

HEADS = ("score.", "classifier.")

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
    """Writes a stage's models as Hugging Face directories, each complete or not at all, and the others where
    one cannot be written.

    Args:
        exports: the models, with their configs.
        states: the weights of each.
        tokenizer: goes into every directory. Where its pad id is its eos id, a sequence classifier, which
            pools at the last token that is not the pad id, gets a pad token of its own.
        directory: where to; a model's `folder` is within.
        provenance: what is said of the run, beside each model's own metadata.
        file_size: the largest file of weights, for example `5GB`.

    Raises:
        UserError: what could not be written, once the others are; or an export that names a class or a
            folder that it may not.
    """
    with replaced_folder(directory) as root:
        problems = write_parts(exports, states, tokenizer, root, provenance, file_size)
        lines = [
            f"export: {Path(directory, export.folder)} cannot be written as {export.auto_class}: "
            f"{remedied(error)}, and let `trivium export` write it from the last checkpoint"
            for export, error in problems
        ]
        if len(problems) == len(exports):  # what was there before stays
            raise UserError("\n".join(lines))
    if lines:
        raise UserError("\n".join([*lines, f"export: {directory} has all other parts"]))


def remedied(error: Exception) -> str:
    """What was in the way of an export, in a line that ends with what to do."""
    return str(error) if isinstance(error, UserError) else f"{in_a_line(error).rstrip('.')}: mend that"


def write_parts(
    exports: Sequence[ExportSpec],
    states: Sequence[State],
    tokenizer: Any,
    root: Path | str,
    provenance: Mapping[str, Any],
    file_size: str = "50GB",
) -> list[tuple[ExportSpec, Exception]]:
    """Writes each model to its folder in `root`, complete or not at all, whatever becomes of the others, and
    gives what went wrong; the arguments are those of `write_export`.

    Raises:
        UserError: an export that names a class or a folder that it may not.
    """
    for export in exports:
        # a name may come from a checkpoint, which might say `../..`
        if Path(export.folder).name != export.folder or export.folder == "..":
            raise UserError(f"export: {export.folder} is no plain name of a folder")
        if export.auto_class not in AUTO_CLASSES:
            raise UserError(f"export: {export.auto_class} is none of {', '.join(AUTO_CLASSES)}")
    problems: list[tuple[ExportSpec, Exception]] = []
    for export, state in zip(exports, states, strict=True):
        part = Path(root, ".part")
        try:
            _write_model(export, state, tokenizer, part, provenance, file_size)
            if export.folder:
                part.rename(Path(root, export.folder))
            else:
                for file in part.iterdir():
                    file.rename(Path(root, file.name))
                part.rmdir()
        except Exception as error:  # as many kinds as there are networks, tokenizers and disks
            shutil.rmtree(part, ignore_errors=True)
            problems.append((export, error))
    return problems


def _write_model(
    export: ExportSpec,
    state: State,
    tokenizer: Any,
    folder: Path,
    provenance: Mapping[str, Any],
    file_size: str,
) -> None:
    if export.bias is not None:
        state = _token_classifier(export, state)
    model, vocabulary = skeleton(export, _dtype(state)), tokenizer
    if export.auto_class == SEQUENCE_CLASSIFIER and tokenizer.pad_token_id == tokenizer.eos_token_id:
        vocabulary = with_pad_token(tokenizer)
        state = _with_row(model, state, vocabulary.pad_token_id)
    pads = vocabulary.pad_token_id != tokenizer.eos_token_id
    # transformers' embeddings do not train the row of the config's pad id
    model.config.pad_token_id = vocabulary.pad_token_id if pads else None
    model.config.eos_token_id = tokenizer.eos_token_id
    if model.can_generate():
        _set_stop_tokens(model.generation_config, tokenizer)
        mend_generation(model.generation_config)
    model.save_pretrained(folder, state_dict=dict(state), max_shard_size=file_size)
    save_tokenizer(vocabulary, folder)
    versions = {name: version(name) for name in PACKAGES}
    record = {"stage": export.stage, "parent": export.parent, "versions": versions}
    text = json.dumps({**record, **export.metadata, **provenance}, indent=2, ensure_ascii=False)
    (folder / PROVENANCE).write_text(text + "\n", encoding="utf-8")


def critic_class(config: PretrainedConfig) -> str:
    """What a critic of this kind is saved as: a token classifier, or a sequence classifier where transformers
    has none whose head is one linear map of the hidden states."""
    with as_a_copy():
        return _critic_class(fields_of(config))


@lru_cache
def _critic_class(fields: str) -> str:
    names = []
    for auto_class in (SEQUENCE_CLASSIFIER, TOKEN_CLASSIFIER):
        body: list[str] = []
        for make in small_configs(config_of(fields)):
            with suppress(Exception), torch.device("meta"):  # there is no such class, or it has no such size
                small = make()
                small.num_labels = 1
                body = list(getattr(transformers, auto_class).from_config(small).state_dict())
                break
        names.append([name for name in body if not name.startswith(HEADS)])
        heads = sorted(set(body) - set(names[-1]))
    single = heads in ([f"{head}bias", f"{head}weight"] for head in HEADS)
    if single and names[0] == names[1]:
        return TOKEN_CLASSIFIER
    rank_zero_info(
        f"The critic is exported as {SEQUENCE_CLASSIFIER}, its offset in provenance.json: transformers has "
        "no token classifier of one linear map for this network."
    )
    return SEQUENCE_CLASSIFIER


def critic_export(module: str, critic: ScalarModel, parent: str, metadata: Mapping[str, Any]) -> ExportSpec:
    """PPO's critic as a directory `critic`: its offset is the head's bias, or in the metadata where the class
    has none."""
    auto_class, offset = critic_class(critic.model.config), float(critic.offset)
    spec = ExportSpec(module, auto_class, "critic", parent, "critic", metadata)
    if auto_class == TOKEN_CLASSIFIER:
        return spec._replace(bias=-offset)
    return spec._replace(metadata={**metadata, "offset": offset})


def mend_generation(generation: Any) -> None:
    """Makes a generation config one that transformers saves: with `temperature: 0.6` and no `do_sample`, as
    published models have it, it samples.

    Raises:
        UserError: it has other faults.
    """
    beams = (generation.num_beams or 1) > 1
    no_beams: dict[str, Any] = {} if beams else {"early_stopping": None, "length_penalty": None}
    for changes in ({}, no_beams, {"do_sample": True}):
        try:
            generation.update(**changes)
            return generation.validate(strict=True)
        except ValueError as error:
            problem = error
    raise _unsaveable(problem) from problem


def _unsaveable(problem: ValueError) -> UserError:
    reason = in_a_line(problem).rstrip(".")
    return UserError(
        f"generation_config.json of the start cannot be saved again: {reason}: mend or delete it"
    )


def _set_stop_tokens(generation: Any, tokenizer: Any) -> None:
    """The tokenizer's eos, then what else ends a reply; as one number where there is no other."""
    stops = generation.eos_token_id
    others = stops if isinstance(stops, list) else [] if stops is None else [stops]
    stops = list(dict.fromkeys([tokenizer.eos_token_id, *others]))
    generation.pad_token_id = tokenizer.pad_token_id
    generation.eos_token_id = stops if len(stops) > 1 else stops[0]


def _dtype(state: State) -> torch.dtype:
    return next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())


def skeleton(export: ExportSpec, dtype: torch.dtype) -> PreTrainedModel:
    """The model without its weights; only its config is used, and the names of its parts."""
    config = CONFIG_MAPPING[export.config["model_type"]].from_dict(dict(export.config))
    if export.auto_class == TOKEN_CLASSIFIER:
        config.classifier_dropout = 0.0
    with torch.device("meta"):
        model = getattr(transformers, export.auto_class).from_config(config, dtype=dtype)
    if export.generation_config:
        try:
            model.generation_config = GenerationConfig.from_dict(dict(export.generation_config))
        except ValueError as error:
            raise _unsaveable(error) from error
    return model


def _with_row(model: PreTrainedModel, state: State, token: int) -> State:
    """The weights with an embedding of `token`, which is 0 where it is new; the config says how many there
    are."""
    embeddings = model.get_input_embeddings()
    name = next(name for name, module in model.named_modules() if module is embeddings) + ".weight"
    weight = state[name]
    missing = token + 1 - len(weight)
    if missing <= 0:
        return state
    model.config.get_text_config().vocab_size = token + 1
    return {**state, name: torch.cat([weight, weight.new_zeros(missing, weight.shape[1])])}


def _token_classifier(export: ExportSpec, state: State) -> State:
    """The weights of a sequence classifier, by the names of a token classifier, whose head has a bias."""
    model = skeleton(export, _dtype(state))
    head = next(name for name, _ in model.named_children() if name in ("score", "classifier"))
    body = {name: tensor for name, tensor in state.items() if name.startswith(f"{model.base_model_prefix}.")}
    weight = state["score.weight"]
    return {**body, f"{head}.weight": weight, f"{head}.bias": weight.new_tensor([export.bias])}
