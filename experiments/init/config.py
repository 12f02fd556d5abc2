"""What `trivium init` has found out about data and model → the YAML of a stage."""

from dataclasses import dataclass, replace
from math import ceil
from pathlib import Path
from typing import Any

import yaml

from datamodules.layouts.reader import Kind
from experiments.init.lengths import NONE, Lengths, batch_sizes, block_length
from experiments.init.stage import Models

STAGE_CLASSES = {
    "pretrain": "modules.CausalLM",
    "sft": "modules.SFTModule",
    "reward": "modules.RewardModule",
    "ppo": "modules.PPOModule",
}
DATA_CLASSES = {
    "documents": "MixedCorpusData",
    "instructions": "InstructionData",
    "preferences": "PreferenceData",
    "prompts": "PromptData",
    "tokens": "TokenData",
}
STEP_ROWS = {"pretrain": 8, "sft": 32, "reward": 16, "ppo": 64}  # of an optimizer step at most
SMALL = {  # a network like that of configs/pretrain.yaml
    "model_type": "llama",
    "hidden_size": 128,
    "intermediate_size": 352,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 4,
    "max_position_embeddings": 512,
    "tie_word_embeddings": True,
}
BLOCK, SMALL_BLOCK = 1024, 256  # tokens at most: of a model that goes on, of a small one
UPDATES = {"epochs": 2, "minibatches": 1}  # of an iteration of PPO
REPLY = 64  # tokens of a response of PPO at most
ENOUGH_STEPS, MOST_EPOCHS = 100, 3


@dataclass
class Setup:
    """What the YAML depends on."""

    stage: str
    kind: Kind
    models: Models
    run: str
    rows: int
    """to train on"""
    chat: bool
    """whether rows go through the tokenizer's chat template"""
    columns: dict[str, str]
    train: str | list[str] = ""
    val: str | list[str] | None = None
    held_out: int = 0
    """rows; of one long text its end is held out, which is none"""
    tokenizer: str = ""
    lengths: Lengths = NONE
    positions: int | None = None
    """of the model"""
    width: int = 128
    """of the model; it decides the learning rate"""
    encoding: str | None = None
    skip_bad_rows: bool = False
    max_dropped: float | None = None

    def moved(self, before: Path, after: Path) -> "Setup":
        """The same, of files in another folder."""

        def path(value: Any) -> Any:
            inside = isinstance(value, str) and Path(value).is_relative_to(before)
            return str(after / Path(value).relative_to(before)) if inside else value

        return replace(self, train=path(self.train), val=path(self.val), tokenizer=path(self.tokenizer))


def rate(width: int, small: float) -> float:
    """A peak learning rate by the width of a network, to one digit: `small` for the 128 of the quickstart, a
    hundredth for 2048, as configs/sft.yaml and configs/llama-1b-fsdp-sft.yaml have it, and between them
    a power of the width."""
    return float(f"{small * (min(max(width, 128), 8192) / 128) ** (-5 / 3):.0e}")


def config(setup: Setup) -> dict[str, Any]:
    """The configuration of a run."""
    data, steps = _data(setup)
    epochs = 1 if setup.stage == "ppo" else min(MOST_EPOCHS, ceil(ENOUGH_STEPS / steps))
    trainer: dict[str, Any] = {
        "accelerator": "auto",
        "devices": 1,
        "precision": "auto",
        "max_epochs": epochs,
        "log_every_n_steps": 1 if steps * epochs < ENOUGH_STEPS else 10,
        "num_sanity_val_steps": 0,
    }
    if setup.stage != "ppo":  # PPO clips by itself
        trainer["gradient_clip_val"] = 1.0
        batches = steps * data["init_args"]["global_batch_size"] // data["init_args"]["micro_batch_size"]
        if setup.val and batches >= 16:
            trainer["val_check_interval"] = 0.25
    return {
        "run": setup.run,
        "trainer": trainer,
        "model": {"class_path": STAGE_CLASSES[setup.stage], "init_args": _model(setup, steps * epochs)},
        "data": data,
    }


def _model(setup: Setup, steps: int) -> dict[str, Any]:
    warmup = {"warmup_steps": min(100, steps // 50)}
    model = setup.models.model
    if setup.stage == "ppo":
        return {
            "actor": setup.models.first("ppo"),
            "reward": setup.models.reward,
            "actor_lr": rate(setup.width, 1e-4),
            "critic_lr": rate(setup.width, 3e-4),
            "max_new_tokens": _reply(setup),
            **UPDATES,
        }
    if setup.stage == "pretrain":
        arguments: dict[str, Any] = {"config": {**SMALL}} if model is None else {"pretrained": model}
        peak, decay = (4e-3, 0.1) if model is None else (rate(setup.width, 2e-3), 0.1)
    else:
        arguments = {"pretrained": model}
        peak, decay = rate(setup.width, 2e-3 if setup.stage == "sft" else 1e-3), 0.0
    optimizer: dict[str, Any] = {"class_path": "modules.optim.AdamW", "init_args": {"lr": peak}}
    if decay:
        optimizer["init_args"]["weight_decay"] = decay
    return {**arguments, "optimizer": optimizer, **warmup}


def _reply(setup: Setup) -> int:
    """Tokens of a response: a quarter of the model's positions at most."""
    return REPLY if setup.positions is None else max(1, min(REPLY, setup.positions // 4))


def _data(setup: Setup) -> tuple[dict[str, Any], int]:
    """The data module, and the optimizer steps (PPO: iterations) of an epoch."""
    lengths, kind = setup.lengths, setup.kind
    arguments: dict[str, Any] = {"tokenizer": setup.tokenizer}
    files = {"train": setup.train, "val": setup.val}
    files = {name: value for name, value in files.items() if value}
    rows, most = setup.rows, STEP_ROWS[setup.stage]
    if kind == "documents":
        length = _block(setup)
        rows = max(1, int(lengths.tokens.mean() * rows) // length)
        arguments |= {"sources": {"text": files}, "sequence_length": length}
    else:
        arguments |= files
        name = "max_prompt_length" if setup.stage == "ppo" else "max_length"
        room = None if setup.positions is None else setup.positions - _reply(setup) * (setup.stage == "ppo")
        length = arguments[name] = lengths.limit(room)
        if setup.chat:
            arguments["template"] = {"class_path": "datamodules.ChatTemplate"}
        if lengths.policies:
            arguments["policies"] = dict(lengths.policies)
    step, forward = batch_sizes(rows, length * lengths.replies, most)
    arguments["global_batch_size"] = step
    if setup.stage != "ppo":  # which cuts a rank's share itself
        arguments["micro_batch_size"] = forward
    arguments["eval_batch_size"] = forward
    optional = {
        "columns": setup.columns,
        "encoding": setup.encoding,
        "on_bad_row": "skip" if setup.skip_bad_rows else None,
        "max_dropped": setup.max_dropped,
    }
    arguments |= {name: value for name, value in optional.items() if value}
    return {"class_path": f"datamodules.{DATA_CLASSES[kind]}", "init_args": arguments}, max(1, rows // step)


def _block(setup: Setup) -> int:
    most = BLOCK if setup.models.model else SMALL_BLOCK
    return block_length(setup.lengths, setup.rows, min(most, setup.positions or most))


def as_yaml(comment: list[str], values: dict[str, Any]) -> str:
    """A configuration as text, with a comment on top."""
    lines = "".join(f"# {line}".rstrip() + "\n" for line in comment)
    return lines + yaml.safe_dump(values, sort_keys=False, allow_unicode=True, width=110)
