"""Whether a stage's result can be written, found out before its first step: each of its models is written
once, small, with the tokenizer and the generation config that it will have."""

import json
import math
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, AutoModelForSequenceClassification
from transformers.utils import logging

from modules.errors import UserError
from modules.hf_config import in_a_line
from modules.hf_export import LANGUAGE_MODEL, remedied, skeleton, write_parts
from modules.probe_config import as_a_copy, config_of, fields_of, small_configs
from modules.specs import ExportSpec


def check_exports(exports: Sequence[ExportSpec], tokenizer: Any) -> None:
    """Writes what a stage will export, small, and throws it away.

    Raises:
        UserError: what cannot be written, a line each.
    """
    with tempfile.TemporaryDirectory() as folder, _no_progress_bar(), as_a_copy():
        small = [_small(export) for export in exports]
        specs, states = [spec for spec, _ in small], [state for _, state in small]
        problems = write_parts(specs, states, tokenizer, folder, {})
    for export in exports:
        try:
            skeleton(export, torch.float32)
        except Exception as error:  # as many kinds as there are networks
            problems.append((export, error))
    if problems:
        lines = [
            f"export: what is trained could not be saved{_named(export)} as {export.auto_class}: "
            f"{remedied(error)}, or take another network"
            for export, error in problems
        ]
        raise UserError("\n".join(dict.fromkeys(lines)))


@contextmanager
def _no_progress_bar() -> Iterator[None]:
    shown = logging.is_progress_bar_enabled()
    logging.disable_progress_bar()
    try:
        yield
    finally:
        if shown:
            logging.enable_progress_bar()


def _named(export: ExportSpec) -> str:
    return f" in `{export.folder}`" if export.folder else ""


def _small(export: ExportSpec) -> tuple[ExportSpec, dict[str, Tensor]]:
    """A small network of the same kind, as a stage would hand it on."""
    config = CONFIG_MAPPING[export.config["model_type"]].from_dict(dict(export.config))
    fields, state = _small_network(fields_of(config), export.auto_class == LANGUAGE_MODEL)
    return export._replace(config=json.loads(fields)), state


@lru_cache(maxsize=8)
def _small_network(fields: str, language: bool) -> tuple[str, dict[str, Tensor]]:
    """Its config as JSON, and its weights."""
    auto_class: Any = AutoModelForCausalLM if language else AutoModelForSequenceClassification
    problem: Exception | None = None
    for make in small_configs(config_of(fields)):
        try:
            config = make()
            if not language:
                config.num_labels = 1
            with torch.random.fork_rng(devices=[]):  # the run's own random numbers stay what they are
                state = auto_class.from_config(config, dtype=torch.float32).state_dict()
        except Exception as error:  # the next is nearer to the original
            problem = error
            continue
        return json.dumps(config.to_dict(), default=str), state
    raise UserError(f"export: no small network can be made to try how it is saved: {in_a_line(problem)}")  # type: ignore[arg-type]


def export_bytes(models: Iterable[nn.Module]) -> int:
    """What the weights of models take on a disk, in fp32; of sharded ones too."""
    parameters = {id(p): getattr(p, "ds_shape", p.shape) for model in models for p in model.parameters()}
    return 4 * sum(math.prod(shape) for shape in parameters.values())
