"""What must be the same on every rank, gathered and compared before the first step: configuration, versions,
data, tokenizer and weights. Paths may differ from machine to machine, what lies there must not."""

import glob
import hashlib
import platform
from collections.abc import Callable, Iterator, Mapping
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import lightning as L
from lightning.pytorch.callbacks import Callback

from datamodules.reading.fingerprint import fingerprint
from experiments.distributed.ranks import ranks

PACKAGES = ("torch", "lightning", "transformers", "tokenizers", "datasets", "deepspeed")
OF_A_MACHINE: tuple[str, ...] = (
    *("config", "run", "overwrite", "ckpt_path", "data.num_workers", "trainer.devices", "trainer.num_nodes"),
    *("trainer.logger", "trainer.default_root_dir", "trainer.profiler"),
    *("trainer.enable_progress_bar", "trainer.enable_model_summary"),
)
"""fields in which every machine may have its own"""
PATH = "a path"  # stands for every path that there is on a machine
ROOT = Path(__file__).resolve().parents[2]
SOURCES = tuple(ROOT / folder for folder in ("modules", "datamodules", "strategies", "experiments"))
SAMPLES, SAMPLE_BYTES = 64, 4096  # places of a large file, and what is read at each


class Agreement(Callback):
    """Compares with rank 0 what the run reads, once the data has been read and before anything is built; an
    error reaches the other ranks before this one's connections to them break.

    Args:
        settings: gives the run's configuration, field → value.
        explained: gives the error that the other ranks are told of, from the one that was met.
    """

    def __init__(
        self,
        settings: Callable[[], Mapping[str, Any]],
        explained: Callable[[BaseException], BaseException],
    ):
        self.settings, self.explained = settings, explained

    def setup(self, trainer: L.Trainer, pl_module: L.LightningModule, stage: str) -> None:
        if trainer.world_size > 1:
            ranks.agree(content_digests(self.settings()))

    def on_exception(
        self, trainer: L.Trainer, pl_module: L.LightningModule, exception: BaseException
    ) -> None:
        ranks.report(self.explained(exception))


def shared_settings(config: Mapping[str, Any]) -> dict[str, Any]:
    """Field → value of a nested configuration, named as in YAML but for `init_args`; what every machine may
    have of its own is left out."""
    return {
        name: value
        for name, value in _flat(config, "")
        if not any(name == own or name.startswith(f"{own}.") for own in OF_A_MACHINE)
    }


def versions_and_settings(settings: Mapping[str, Any], world_size: int) -> dict[str, str]:
    """What ranks can compare before anything is read: values, versions, the source of this project."""
    compared = {"the number of ranks": str(world_size), "the version of python": platform.python_version()}
    compared |= {f"the version of {name}": version(name) for name in PACKAGES}
    compared["trivium's own source"] = _source()
    return compared | {name: PATH if _is_path(value) else repr(value) for name, value in settings.items()}


def content_digests(settings: Mapping[str, Any]) -> dict[str, str]:
    """Field → digest of what lies at the paths of a configuration: of data as the token cache knows it, of
    folders and checkpoints by samples of their files."""
    digests = {}
    for name, value in settings.items():
        area, last = name.partition(".")[0], name.rstrip("]").rpartition(".")[2].partition("[")[0]
        if value is None or area not in ("data", "model"):
            continue
        if area == "data" and last in ("train", "val") and isinstance(value, str):
            digests[name] = f"content {fingerprint(value, name)[:12]}"
        elif _is_path(value) and Path(value).is_dir():
            digests[name] = f"content {_folder(Path(value))}"
    return digests


def _flat(value: Any, name: str) -> Iterator[tuple[str, Any]]:
    if isinstance(value, Mapping) and value:
        for key, inner in value.items():
            yield from _flat(inner, name if key == "init_args" else f"{name}.{key}".removeprefix("."))
    elif isinstance(value, list | tuple) and value:
        for place, inner in enumerate(value):
            yield from _flat(inner, f"{name}[{place}]")
    else:
        yield name, value


def _is_path(value: Any) -> bool:
    if not isinstance(value, str) or not value or len(value) > 4096:
        return False
    return Path(value).exists() or bool(glob.has_magic(value) and glob.glob(value, recursive=True))


def _folder(folder: Path) -> str:
    """A digest of a folder's files: of small ones all, of large ones their size and samples, which no
    training leaves as they were."""
    result = hashlib.blake2b(digest_size=6)
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        size = file.stat().st_size
        result.update(f"{file.name} {size}\n".encode())
        with file.open("rb") as stream:
            for place in range(SAMPLES):
                stream.seek(max(0, size - SAMPLE_BYTES) * place // (SAMPLES - 1))
                result.update(stream.read(SAMPLE_BYTES))
                if size <= SAMPLE_BYTES:
                    break
    return result.hexdigest()


@cache
def _source() -> str:
    result = hashlib.blake2b(digest_size=6)
    for folder in SOURCES:
        for file in sorted(folder.rglob("*.py")):
            result.update(str(file.relative_to(folder.parent)).encode() + file.read_bytes())
    return result.hexdigest()
