"""Hugging Face directories in: models with their weights, what an export says of itself, and what cannot be a
stage's start."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

from safetensors import SafetensorError
from torch import nn
from transformers import AutoModelForCausalLM, AutoModelForSequenceClassification, PreTrainedModel

from modules.errors import UserError
from modules.hf_config import named, new_config, saved_config

PROVENANCE = "provenance.json"


def new_causal_lm(config: dict, vocab_size: int, special_ids: dict[str, int | None]) -> PreTrainedModel:
    """A causal language model from scratch.

    Args:
        config: a Hugging Face config as a dict with its `model_type`.
        vocab_size: the tokenizer's, filled in when missing.
        special_ids: `pad_token_id`, `bos_token_id`, `eos_token_id`. Set after building: under ZeRO-3 a
            padding row of a parameter that is not there yet cannot be zeroed.

    Raises:
        UserError: no or an unknown `model_type`, an unknown key or a wrong value.
    """
    hf_config = new_config(config, vocab_size, "model.config")
    with named("model.config"):
        model = AutoModelForCausalLM.from_config(hf_config)
    for name, value in special_ids.items():
        setattr(model.config, name, value)
        setattr(model.generation_config, name, value)
    return model


def load_causal_lm(path: str) -> PreTrainedModel:
    """A pretrained causal language model, from a directory or a hub name already cached.

    It has the checkpoint's dtype, and its weights stay in the file, mapped into memory, until they are
    changed or cast: what a strategy gives to other ranks is never read.
    """
    return _load(AutoModelForCausalLM, path)[0]


def load_scalar_model(path: str, draw_head: Callable[[nn.Parameter], None] | None = None) -> PreTrainedModel:
    """A sequence classifier with one label and no bias, as `load_causal_lm`, and with the head that is in its
    weights, whatever else is known of it.

    Args:
        path: of a reward model, or with `draw_head` of any.
        draw_head: fills the head's weight (1, D) where the checkpoint has none; None = that is refused.

    Raises:
        UserError: it has no head, or one of another size, or what `load_causal_lm` refuses.
    """
    model, missing = _load(AutoModelForSequenceClassification, path, head="score.", num_labels=1)
    if missing and draw_head is None:
        raise UserError(
            f"{path}: the weights hold no reward head (no `{missing[0]}`), so its scores would be random: "
            "give the directory of a reward model, or train one from this"
        )
    for name in missing:
        cast(Callable, draw_head)(model.get_parameter(name))
    return model


def _load(cls: Any, path: str, head: str = "", **options: Any) -> tuple[PreTrainedModel, list[str]]:
    """The model, and which parameters of its `head` (how their names begin) the weights do not hold."""
    try:
        with named(path):
            model, info = cls.from_pretrained(
                path,
                dtype="auto",
                ignore_mismatched_sizes=True,  # they are refused here, by name
                output_loading_info=True,
                **options,
            )
    except (OSError, SafetensorError) as error:
        raise UserError(f"{path}: the weights cannot be read: {str(error).splitlines()[0]}") from error
    if info["mismatched_keys"]:
        name, saved, wanted = min(info["mismatched_keys"])
        if head and name.startswith(head):
            raise UserError(
                f"{path}: the head `{name}` is {tuple(saved)}, but a reward model gives one score and has "
                f"{tuple(wanted)}: give one with a single label"
            )
        raise UserError(
            f"{path}: `{name}` is {tuple(saved)} in the weights, but {tuple(wanted)} by config.json: give "
            "weights and config that belong together"
        )
    body = f"{model.base_model_prefix}."
    headless = sorted(name for name in info["missing_keys"] if head and name.startswith(head))
    missing = set(info["missing_keys"]) - set(headless)
    known = (body, head) if head else (body,)
    unknown = {name for name in info["unexpected_keys"] if name.startswith(known)}  # another head is left out
    for names, problem in ((missing, "missing from the weights"), (unknown, "not in a model by config.json")):
        if names:
            more = f" and {len(names) - 1} more" if len(names) > 1 else ""
            raise UserError(
                f"{path}: `{min(names)}`{more}: {problem}: give weights and config that belong together"
            )
    embeddings: Any = model.get_input_embeddings()
    # torch trains no row of that id; what is padding is known by documents here, and the id may be the eos
    embeddings.padding_idx = None
    return model, headless


def read_provenance(path: str) -> dict[str, Any]:
    """What an export says of itself: `stage`, `parent`, `receipt`, `versions`, …; empty if it says nothing.

    Raises:
        UserError: it is cut off or something else.
    """
    file = Path(path) / PROVENANCE
    if not file.is_file():
        return {}
    try:
        provenance = json.loads(file.read_text())
    except ValueError:
        provenance = None
    if not isinstance(provenance, dict):
        raise UserError(
            f"{file} was cut off or is something else: write the export again, or delete that file to take "
            "the directory as it is"
        )
    return provenance


def parent_problem(name: str, path: str, parents: tuple[str, ...]) -> str | None:
    """Why a directory or hub name cannot be what a stage starts from, in one line, or None. Of an export the
    stage must be one of `parents`; a directory without provenance is taken as it is."""
    folder = Path(path)
    if folder.is_file():
        return f"model.{name}: {path} is a file: give the directory of a Hugging Face checkpoint"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            export = folder / "export"  # of a run, whose folder was given
            there = f"{export}, what that run exported" if (export / "config.json").is_file() else ""
            return f"model.{name}: {path} has no config.json: give {there or 'a Hugging Face directory'}"
        try:
            stage = read_provenance(path).get("stage")
        except UserError as error:
            return f"model.{name}: {error}"
        if stage is not None and stage not in parents:
            wanted = " or ".join(f"`{parent}`" for parent in parents)
            return f"model.{name}: {path} is the result of stage `{stage}`, this needs one of stage {wanted}"
    try:
        saved_config(path, f"model.{name}")
    except OSError:
        if folder.is_dir():
            return f"model.{name}: {path}/config.json is no JSON: it was cut off or is something else"
        return (
            f"model.{name}: {path} is no directory and no model in the local hub cache: "
            "give an existing directory, or run once with the hub in reach"
        )
    except UserError as error:
        return str(error)
    return None
