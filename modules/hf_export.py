"""Hugging Face directories out: how a stage hands its result to the next, and to plain `transformers`."""

import copy
import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForTokenClassification, PreTrainedModel

from modules.hf_load import PROVENANCE

SHARD = "50GB"  # the largest file of weights, as `transformers` has it
PACKAGES = ("torch", "lightning", "transformers", "datasets", "deepspeed")


def write_directory(directory: str, write: Callable[[Path], None]) -> None:
    """Calls `write` on a temporary folder beside `directory` and renames it: complete, or not there."""
    target = Path(directory)
    target.parent.mkdir(parents=True, exist_ok=True)
    part = target.with_name(target.name + ".part")
    shutil.rmtree(part, ignore_errors=True)
    part.mkdir()
    write(part)
    shutil.rmtree(target, ignore_errors=True)
    part.rename(target)


def networks(module: nn.Module) -> dict[str, dict[str, Any]]:
    """What a checkpoint must say of its `transformers` models so that they can be exported without the run:
    the model's name within `module` → `config` and, where it generates, `generation_config`."""
    found: dict[str, dict[str, Any]] = {}
    for name, model in module.named_modules():
        inner = any(name.startswith(f"{outer}.") for outer in found)
        if isinstance(model, PreTrainedModel) and not inner:
            generation = getattr(model, "generation_config", None)
            found[name] = {
                "config": json.loads(model.config.to_json_string()),
                "generation_config": generation and json.loads(generation.to_json_string()),
            }
    return found


State = dict[str, Tensor]
"""a model's weights, whole, by the names that the model has for them"""


def _save(
    model: PreTrainedModel,
    state: State,
    tokenizer: Any,
    folder: Path,
    stage: str,
    parent: str | None,
    provenance: dict[str, Any],
    shard: str,
) -> None:
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
            config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder, state_dict=dict(state), max_shard_size=shard)
    weights = next(tensor.dtype for tensor in state.values() if tensor.is_floating_point())
    if weights != model.dtype:  # the network computes in 16 bits, its weights are the optimizer's in fp32
        model.config.dtype = weights
        model.config.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    facts = {
        "stage": stage,
        "parent": parent,
        "versions": {name: version(name) for name in PACKAGES},
        **provenance,
    }
    (folder / PROVENANCE).write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n")


def export_causal_lm(
    model: PreTrainedModel,
    state: State,
    tokenizer: Any,
    directory: str,
    stage: str,
    parent: str | None,
    provenance: dict[str, Any],
    shard: str = SHARD,
) -> None:
    """Writes a directory that `AutoModelForCausalLM` loads; only the configs of `model` are used."""

    def write(folder: Path) -> None:
        _save(model, state, tokenizer, folder, stage, parent, provenance, shard)

    write_directory(directory, write)


def export_reward(
    model: PreTrainedModel,
    state: State,
    tokenizer: Any,
    directory: str,
    parent: str | None,
    offset: float,
    provenance: dict[str, Any],
    shard: str = SHARD,
) -> None:
    """Writes a directory that `AutoModelForSequenceClassification` loads, with the mean training score as
    `offset`.

    It pools at the last token that is not the pad id, so the pad id must never be the eos id.
    """
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    facts = {"offset": offset, **provenance}

    def write(folder: Path) -> None:
        _save(model, state, tokenizer, folder, "reward", parent, facts, shard)

    write_directory(directory, write)


def export_ppo(
    actor: PreTrainedModel,
    actor_state: State,
    critic: PreTrainedModel,
    critic_state: State,
    offset: float,
    tokenizer: Any,
    directory: str,
    parent: str,
    provenance: dict[str, Any],
    shard: str = SHARD,
) -> None:
    """Writes the actor for `AutoModelForCausalLM` and, in `critic/`, the critic for
    `AutoModelForTokenClassification`.

    Args:
        actor: the policy.
        actor_state: its weights.
        critic: the critic's sequence classifier, with its head `score`.
        critic_state: its weights.
        offset: what the critic subtracts; it becomes the bias that a token classifier has.
        tokenizer: goes into both.
        directory: where to.
        parent: what the actor started from.
        provenance: further facts.
        shard: the largest file of weights, for example `5GB`.
    """
    config = copy.deepcopy(critic.config)
    config.classifier_dropout = 0.0
    with torch.device("meta"):  # its weights are the critic's
        classifier = AutoModelForTokenClassification.from_config(
            config, dtype=critic.dtype, attn_implementation="sdpa"
        )
    prefix = f"{critic.base_model_prefix}."
    values = {name: tensor for name, tensor in critic_state.items() if name.startswith(prefix)}
    head = next(name for name, _ in classifier.named_children() if name in ("score", "classifier"))
    values[f"{head}.weight"] = critic_state["score.weight"]
    values[f"{head}.bias"] = critic_state["score.weight"].new_full((1,), -offset)

    def write(folder: Path) -> None:
        _save(actor, actor_state, tokenizer, folder, "ppo", parent, provenance, shard)
        folder = folder / "critic"
        _save(classifier, values, tokenizer, folder, "critic", parent, provenance, shard)

    write_directory(directory, write)
