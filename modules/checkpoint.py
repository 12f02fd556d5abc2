"""Hugging Face directories in and out: how one stage hands its result to the next, and to plain
`transformers`."""

import copy
import json
import shutil
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from transformers import AutoConfig, AutoModelForTokenClassification, PreTrainedModel

PROVENANCE = "provenance.json"
PACKAGES = ("torch", "lightning", "transformers", "datasets", "deepspeed")


def read_provenance(path: str) -> dict[str, Any]:
    """What an export says of itself: `stage`, `parent`, `receipt`, `versions`, …; empty where it says
    nothing."""
    file = Path(path) / PROVENANCE
    return json.loads(file.read_text()) if file.is_file() else {}


def parent_problem(name: str, path: str, parents: tuple[str, ...]) -> str | None:
    """Why `path` cannot be what a stage starts from, in one line, or None.

    Args:
        name: the argument, for the message.
        path: a Hugging Face directory or hub name.
        parents: the stages it may come from; a directory without provenance is taken as it is.
    """
    folder = Path(path)
    if folder.is_file():
        return f"model.{name}: {path} is a file: give the directory of a Hugging Face checkpoint"
    if folder.is_dir():
        if not (folder / "config.json").is_file():
            return f"model.{name}: {path} has no config.json: give a Hugging Face directory"
        stage = read_provenance(path).get("stage")
        if stage is not None and stage not in parents:
            wanted = " or ".join(f"`{parent}`" for parent in parents)
            return f"model.{name}: {path} is the result of stage `{stage}`, this needs one of stage {wanted}"
        return None
    try:
        AutoConfig.from_pretrained(path)
    except (OSError, ValueError):
        return (
            f"model.{name}: {path} is no directory and no model in the local hub cache: "
            "give an existing directory, or run once with the hub in reach"
        )
    return None


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
) -> None:
    for config in (model.config, getattr(model, "generation_config", None)):
        if config is not None:
            config.pad_token_id = tokenizer.pad_token_id
            config.eos_token_id = tokenizer.eos_token_id
    model.save_pretrained(folder, state_dict=state)
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
) -> None:
    """Writes a directory that `AutoModelForCausalLM` loads."""

    def write(folder: Path) -> None:
        _save(model, state, tokenizer, folder, stage, parent, provenance)

    write_directory(directory, write)


def export_reward(
    model: PreTrainedModel,
    state: State,
    tokenizer: Any,
    directory: str,
    parent: str | None,
    offset: float,
    provenance: dict[str, Any],
) -> None:
    """Writes a directory that `AutoModelForSequenceClassification` loads, with the mean training score as
    `offset`.

    It pools at the last token that is not the pad id, so the pad id must never be the eos id.
    """
    assert tokenizer.pad_token_id != tokenizer.eos_token_id
    facts = {"offset": offset, **provenance}
    write_directory(directory, lambda folder: _save(model, state, tokenizer, folder, "reward", parent, facts))


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
    """
    config = copy.deepcopy(critic.config)
    config.classifier_dropout = 0.0
    classifier = AutoModelForTokenClassification.from_config(config, attn_implementation="sdpa")
    prefix = f"{critic.base_model_prefix}."
    body = {name: tensor for name, tensor in critic_state.items() if name.startswith(prefix)}
    classifier.base_model.load_state_dict({name.removeprefix(prefix): body[name] for name in body})
    head = next(module for name, module in classifier.named_children() if name in ("score", "classifier"))
    with torch.no_grad():
        head.weight.copy_(critic_state["score.weight"])
        head.bias.fill_(-offset)

    def write(folder: Path) -> None:
        _save(actor, actor_state, tokenizer, folder, "ppo", parent, provenance)
        folder = folder / "critic"
        _save(classifier, classifier.state_dict(), tokenizer, folder, "critic", parent, provenance)

    write_directory(directory, write)
