"""Which weights a Hugging Face directory holds, by their content: the same wherever it lies and however its
files are cut."""

import hashlib
import json
from functools import lru_cache
from pathlib import Path
from typing import Any, BinaryIO

from huggingface_hub import try_to_load_from_cache

PLACES, SAMPLE = 4, 1024  # of a tensor, and the bytes that are read at each: no training leaves all as it was
COSMETIC = (
    "_name_or_path",
    "name_or_path",
    "transformers_version",
    "architectures",
    "use_cache",
    "torch_dtype",
)
"""fields of a config that change nothing of what a network computes"""
CHOSEN_HERE = ("dtype", "pad_token_id", "bos_token_id", "eos_token_id", "num_labels", "id2label", "label2id")
"""those that an export sets by its tokenizer and its head"""


def computing_fields(config: dict[str, Any]) -> dict[str, Any]:
    """What a network computes by, of its config as a dict."""
    return {
        name: computing_fields(value) if isinstance(value, dict) else value
        for name, value in config.items()
        if name not in (*COSMETIC, *CHOSEN_HERE)
    }


def weights_digest(path: str) -> str | None:
    """The same for directories (or cached hub names) of the same weights and config; None where nothing is
    found there."""
    folder = Path(path)
    if not folder.is_dir():
        try:
            cached = try_to_load_from_cache(path, "config.json")
        except ValueError:  # no name of the hub's
            return None
        if not isinstance(cached, str):
            return None
        folder = Path(cached).parent
    files = sorted(folder.glob("*.safetensors")) or sorted([*folder.glob("*.bin"), *folder.glob("*.gguf")])
    stamps = tuple((str(file), file.stat().st_size, file.stat().st_mtime_ns) for file in files)
    config = folder / "config.json"
    return _digest(stamps, config.read_text(encoding="utf-8") if config.is_file() else "{}")


@lru_cache(maxsize=16)
def _digest(stamps: tuple[tuple[str, int, int], ...], config: str) -> str:
    result = hashlib.blake2b(digest_size=12)
    result.update(json.dumps(computing_fields(json.loads(config)), sort_keys=True).encode())
    parts = [part for name, *_ in stamps for part in _samples(Path(name))]
    for part in sorted(parts):
        result.update(part)
    return result.hexdigest()


def _samples(file: Path) -> list[bytes]:
    """What tells the tensors of a file of safetensors from others, one by one; of another file, the file."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        if file.suffix != ".safetensors":
            return [_sample(stream, 0, size)]
        start = int.from_bytes(stream.read(8), "little")
        header = json.loads(stream.read(start))
        header.pop("__metadata__", None)
        parts = []
        for name, tensor in header.items():
            low, high = (8 + start + offset for offset in tensor["data_offsets"])
            said = json.dumps([name, tensor["dtype"], tensor["shape"]])
            parts.append(said.encode() + _sample(stream, low, high))
        return parts


def _sample(stream: BinaryIO, low: int, high: int) -> bytes:
    parts = []
    for place in range(PLACES):
        stream.seek(low + max(0, high - low - SAMPLE) * place // (PLACES - 1))
        parts.append(stream.read(min(SAMPLE, high - low)))
        if high - low <= SAMPLE:
            break
    return b"".join(parts)
