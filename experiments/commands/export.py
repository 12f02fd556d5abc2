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

from experiments.cli.arguments import ArgumentParser
from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from modules.specs import ExportSpec

DTYPES = {"fp32": "float32", "bf16": "bfloat16", "fp16": "float16"}
EPILOG = """\
examples:
  trivium export runs/sft/checkpoints/last.ckpt exported
  trivium export runs/big/checkpoints/last.ckpt exported --dtype bf16 --max-shard-size 5GB

CKPT is what a run wrote under any strategy, on any number of ranks: a file, or DeepSpeed's folder; of a run's
own folder (runs/sft) the newest whole checkpoint is taken. Nothing in it is executed. DIR is what the run
itself writes to `export/` when it ends: the next stage starts from it (`--model.init_args.pretrained DIR`),
and plain transformers loads it. Weights are those that the optimizer has: fp32 where it keeps fp32 copies of
16-bit weights. Memory stays at a few times the largest tensor; the disk needs room for the weights, and for
the same once more while they are put together from DeepSpeed's partitions or get another dtype.
"""


def main(argv: list[str]) -> int:
    """Runs `trivium export …`."""
    parser = ArgumentParser(
        prog="trivium export",
        description="Turn a Lightning checkpoint of any stage and strategy into a Hugging Face directory.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        allow_abbrev=False,
    )
    option = parser.add_argument
    option("checkpoint", metavar="CKPT", help="for example runs/sft/checkpoints/last.ckpt")
    option("directory", metavar="DIR", help="the directory to write")
    shards = "of a file of weights, as 5GB or 500MB (5GB)"
    option("--max-shard-size", default="5GB", metavar="SIZE", help=shards)
    option("--dtype", choices=list(DTYPES), help="of the weights (as they were trained, fp32 copies first)")
    option("--tokenizer", metavar="DIR", help="the tokenizer (the one that the run used)")
    option("--overwrite", action="store_true", help="replace an export that DIR holds")
    export(**vars(parser.parse_args(argv)))
    return 0


def export(
    checkpoint: str,
    directory: str,
    max_shard_size: str,
    dtype: str | None,
    tokenizer: str | None,
    overwrite: bool,
) -> None:
    """Writes the Hugging Face directory of a checkpoint, complete or not at all, by the command's options.

    Raises:
        UserError: the checkpoint cannot be read, or the directory not be written.
    """
    size = re.fullmatch(r"(\d+)(?:KB|MB|GB|TB)", max_shard_size)
    if not size or not int(size[1]):
        problem = f"--max-shard-size is {max_shard_size}"
        raise UserError(f"{problem}: give a number with its unit, such as 5GB or 500MB")
    _check_target(Path(checkpoint), Path(directory), overwrite)
    import torch

    from experiments.commands.mapped_weights import MappedWeights
    from modules.hf_export import write_export
    from modules.specs import ExportSpec
    from modules.vocabulary import vocabulary_digest
    from strategies.checkpoints.checkpoint import open_checkpoint

    path = _whole(Path(checkpoint))
    content = open_checkpoint(path)
    metadata = content.metadata
    if "exports" not in metadata:
        raise UserError(
            f"export: {checkpoint} is of stage `{metadata.get('stage')}` and does not say what networks it "
            "holds: it is from before stages said that; go on from it with `--ckpt_path` for one step, and "
            "export what that writes"
        )
    exports = [ExportSpec(**values) for values in metadata["exports"]]
    modules = tuple(spec.module for spec in exports)
    target = getattr(torch, DTYPES[dtype]) if dtype else None
    weights = MappedWeights(content, folder=Path(directory).absolute().parent, dtype=target)
    weights.check_space(modules)
    counts = {"steps": metadata["global_step"], "tokens": metadata["tokens"]}
    provenance = metadata.get("provenance") or counts
    vocabulary = _tokenizer(tokenizer, metadata["tokenizer"])
    if metadata.get("vocabulary", vocabulary_digest(vocabulary)) != vocabulary_digest(vocabulary):
        raise UserError(
            f"export: {tokenizer or metadata['tokenizer']} has another vocabulary than the run had: name the "
            "run's tokenizer with --tokenizer DIR"
        )
    specs = [_measured(spec, path, provenance) for spec in exports]
    states = [weights.state(module) for module in modules]
    write_export(specs, states, vocabulary, directory, provenance, file_size=max_shard_size)
    stage, gigabytes = metadata["stage"], weights.bytes(modules) / 1e9
    print(f"{directory}: stage {stage}, step {provenance['steps']:,}, {gigabytes:.3g} GB of weights")


def _whole(path: Path) -> Path:
    """The checkpoint that is named, or the newest whole one of a run's folder.

    Raises:
        UserError: it is damaged.
    """
    from strategies.checkpoints.intact import damage, newest

    if (path / "checkpoints").is_dir():
        whole, _ = newest(path / "checkpoints")
        if whole is None:
            raise UserError(f"export: {path}/checkpoints holds no whole checkpoint")
        return whole
    reason = damage(path)
    if reason is None:
        return path
    whole, _ = newest(path.parent)
    remedy = "" if whole is None else f": the newest whole one there is {whole}"
    raise UserError(f"export: {path} is no complete checkpoint: it {reason}{remedy}")


def _tokenizer(given: str | None, own: str) -> Any:
    from datamodules.errors import UserError as DataError
    from datamodules.rendering.tokenizer import load_tokenizer

    try:
        return load_tokenizer(given or own)
    except DataError as error:
        raise UserError(f"{error}; or name the run's tokenizer with --tokenizer DIR") from error


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


def _measured(spec: "ExportSpec", checkpoint: Path, provenance: dict[str, Any]) -> "ExportSpec":
    """With the numbers that are measured when training ends, where the run has ended with this very
    checkpoint and said them in its own export; else with a note."""
    file = checkpoint.absolute().parent.parent / "export" / spec.folder / "provenance.json"
    own = json.loads(file.read_text()) if spec.unmeasured and file.is_file() else {}
    same = all(own.get(key) == provenance[key] for key in ("steps", "tokens"))
    metadata = dict(spec.metadata)
    for name, words in spec.unmeasured.items():
        if same and name in own:
            metadata[name] = own[name]
            continue
        metadata[f"{name}_note"] = "not measured: that is done when training ends"
        print(
            f"{checkpoint} is from before {words} was measured, which is done when training "
            f"ends: `{name}` is 0 in provenance.json"
        )
    return spec._replace(metadata=metadata)
