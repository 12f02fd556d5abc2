"""`trivium export CKPT DIR`: a checkpoint of any stage and strategy as the Hugging Face directory that a
finished run's `export/` is.

Weights stay in files that are mapped into memory: those of the checkpoint, or new ones beside DIR where they
must be put together from DeepSpeed's partitions or have another dtype. Imports what is heavy when it runs.
"""

import argparse
import json
import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from torch import Tensor

    from strategies.checkpoints.checkpoint import Saved

NETWORKS = {  # stage → the models that are exported, as the checkpoint names them
    "pretrain": ("network.model",),
    "sft": ("network.model",),
    "reward": ("network.model",),
    "ppo": ("network.actor.model", "network.critic.model"),
}
DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
EPILOG = """\
examples:
  trivium export runs/sft/checkpoints/last.ckpt exported
  trivium export runs/big/checkpoints/last.ckpt exported --dtype bf16 --max-shard-size 5GB

CKPT is what a run wrote under any strategy, on any number of ranks: a file, or DeepSpeed's folder. Nothing in
it is executed. DIR is what the run itself writes to `export/` when it ends: the next stage starts from it
(`--model.init_args.pretrained DIR`), and plain transformers loads it. Weights are those that the optimizer
has: fp32 where it keeps fp32 copies of 16-bit weights. Memory stays at a few times the largest tensor;
the disk needs room for the weights, and for the same once more while they are put together from
DeepSpeed's partitions or get another dtype.
"""


def main(argv: list[str]) -> int:
    """Runs `trivium export …`."""
    parser = argparse.ArgumentParser(
        prog="trivium export",
        description="Turn a Lightning checkpoint of any stage and strategy into a Hugging Face directory.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    parser.add_argument("checkpoint", metavar="CKPT", help="for example runs/sft/checkpoints/last.ckpt")
    parser.add_argument("directory", metavar="DIR", help="the directory to write")
    parser.add_argument(
        "--max-shard-size", default="5GB", metavar="SIZE", help="of a file of weights, as 5GB or 500MB (5GB)"
    )
    parser.add_argument(
        "--dtype", choices=list(DTYPES), help="of the weights (as they were trained, fp32 copies first)"
    )
    parser.add_argument("--tokenizer", metavar="DIR", help="the tokenizer (the one that the run used)")
    parser.add_argument("--overwrite", action="store_true", help="replace an export that DIR holds")
    options = parser.parse_args(argv)
    export(
        options.checkpoint,
        options.directory,
        options.max_shard_size,
        options.dtype,
        options.tokenizer,
        options.overwrite,
    )
    return 0


def export(
    checkpoint: str,
    directory: str,
    max_shard_size: str = "5GB",
    dtype: str | None = None,
    tokenizer: str | None = None,
    overwrite: bool = False,
) -> None:
    """Writes the Hugging Face directory of a checkpoint, complete or not at all.

    Args:
        checkpoint: a file, or DeepSpeed's folder.
        directory: where to.
        max_shard_size: the largest file of weights, as `5GB`.
        dtype: `fp32`, `bf16`, `fp16`; as they were trained when missing.
        tokenizer: the run's own when missing.
        overwrite: replace an export.

    Raises:
        UserError: the checkpoint cannot be read, or the directory not be written.
    """
    _check_size(max_shard_size)
    _check_target(Path(checkpoint), Path(directory), overwrite)
    import torch

    from experiments.commands.mapped_weights import MappedWeights
    from modules.hf_export import export_causal_lm, export_ppo, export_reward
    from strategies.checkpoints.checkpoint import open_checkpoint

    saved = open_checkpoint(Path(checkpoint))
    stage = _stage(checkpoint, saved)
    facts = saved.facts
    networks = NETWORKS[stage]
    weights = MappedWeights(
        saved, Path(directory).absolute().parent, getattr(torch, DTYPES[dtype]) if dtype else None
    )
    weights.check_space(networks)
    end = (_tokenizer(tokenizer, facts["tokenizer"]), directory)
    states = [weights.state(name) for name in networks]
    models = [
        _skeleton(facts["networks"][name], stage == "reward" or "critic" in name, state)
        for name, state in zip(networks, states, strict=True)
    ]
    inputs, provenance = facts["inputs"], _provenance(facts)
    if stage == "ppo":
        offset = float(saved.weight("network.critic.offset"))
        provenance = {"reward": inputs["reward"], **provenance}
        both = (models[0], states[0], models[1], states[1])
        export_ppo(*both, offset, *end, inputs["actor"], provenance, max_shard_size)
    elif stage == "reward":
        measured = _offset(Path(checkpoint), provenance)
        if measured is None:
            provenance["offset_note"] = "not measured: that is done when training ends"
            print(
                f"{checkpoint} is from before the mean score was measured, which is done when training "
                "ends: `offset` is 0 in provenance.json"
            )
        one = (models[0], states[0])
        export_reward(*one, *end, inputs["pretrained"], measured or 0.0, provenance, max_shard_size)
    else:
        one = (models[0], states[0])
        export_causal_lm(*one, *end, stage, inputs["pretrained"], provenance, max_shard_size)
    size = weights.bytes(networks)
    print(f"{directory}: stage {stage}, step {provenance['steps']:,}, {size / 1e9:.3g} GB of weights")


def _tokenizer(given: str | None, own: str) -> Any:
    from datamodules.rendering.tokenizer import load_tokenizer

    try:
        return load_tokenizer(given or own)
    except UserError as error:
        raise UserError(f"{error}; or name the run's tokenizer with --tokenizer DIR") from error


def _check_size(size: str) -> None:
    found = re.fullmatch(r"(\d+)(KB|MB|GB|TB)", size)
    if not found or not int(found[1]):
        raise UserError(f"--max-shard-size is {size}: give a number with its unit, such as 5GB or 500MB")


def _check_target(checkpoint: Path, target: Path, overwrite: bool) -> None:
    if not checkpoint.exists():
        raise UserError(
            f"export: {checkpoint} does not exist: name a checkpoint, as RUN/checkpoints/last.ckpt"
        )
    if target.is_file():
        raise UserError(f"export: {target} is a file: name a directory to write")
    if target.is_dir() and any(target.iterdir()):
        if not overwrite:
            raise UserError(f"export: {target} is not empty: name another directory, or add --overwrite")
        if not (target / "config.json").is_file():
            raise UserError(
                f"export: {target} holds no config.json, so it is no export that could be overwritten: name "
                "another directory"
            )


def _stage(checkpoint: str, saved: "Saved") -> str:
    """The checkpoint's stage.

    Raises:
        UserError: one that cannot be exported.
    """
    stage = saved.facts.get("stage")
    if stage not in NETWORKS:
        raise UserError(
            f"export: {checkpoint} is of stage `{stage}`: what can be exported is of stage "
            + ", ".join(f"`{known}`" for known in NETWORKS)
        )
    if "networks" not in saved.facts:
        raise UserError(
            f"export: {checkpoint} does not say what networks it holds: it is from before there was `trivium "
            "export`; go on from it with `--ckpt_path` for one step, and export what that writes"
        )
    return stage


def _provenance(facts: dict[str, Any]) -> dict[str, Any]:
    return facts.get("provenance") or {"steps": facts["global_step"], "tokens": facts["tokens"]}


def _offset(checkpoint: Path, provenance: dict[str, Any]) -> float | None:
    """The mean score, where the run has ended with this very checkpoint and told it in its own export."""
    file = checkpoint.absolute().parent.parent / "export" / "provenance.json"
    told = json.loads(file.read_text()) if file.is_file() else {}
    same = all(told.get(key) == provenance[key] for key in ("steps", "tokens"))
    return told.get("offset") if same else None


def _skeleton(described: dict[str, Any], scalar: bool, like: "dict[str, Tensor]") -> Any:
    """The model of a network without its weights, in their dtype."""
    import torch
    from transformers import (
        CONFIG_MAPPING,
        AutoModelForCausalLM,
        AutoModelForSequenceClassification,
        GenerationConfig,
    )

    config = CONFIG_MAPPING[described["config"]["model_type"]].from_dict(described["config"])
    auto: Any = AutoModelForSequenceClassification if scalar else AutoModelForCausalLM
    dtype = next(tensor.dtype for tensor in like.values() if tensor.is_floating_point())
    with torch.device("meta"):
        model = auto.from_config(config, dtype=dtype, attn_implementation="sdpa")
    if described["generation_config"]:
        model.generation_config = GenerationConfig.from_dict(described["generation_config"])
    return model
