"""How the sources of a corpus are mixed: what YAML says of it, what is wrong with that, and the schedule that
follows. Without torch, so that a mixture is planned at once."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from datamodules.errors import UserError
from datamodules.sampling.mixture_schedule import MixtureSchedule, temperature_weights

SEQUENCE_LENGTH, GLOBAL_BATCH_SIZE = 1024, 32  # of the data module where YAML does not say: tokens, blocks


@dataclass
class Source:
    """One source of a mixture.

    Args:
        train: files (globs allowed), a saved `datasets` folder or a hub name; may be missing in a plan alone.
        weight: share of the training tokens, relative to the other sources'.
        val: likewise, for validation; None = this source is not validated.
        text: the column that holds a document (`meta.text` where it lies inside another), or a function from
            a row to it.
        max_epochs: how often its tokens may be seen; a run that would pass it is refused. None = any number.
        streaming: begin training while the source is still being tokenised. Its blocks are then shuffled
            within windows of `WINDOW` blocks instead of as a whole.
        tokens: unique ones, for `trivium plan --mixture`, which reads no file; training counts its own.
        columns: our name for a column ← the file's own; the data module's where it is not given.
        encoding: of text files; the data module's where it is not given.
    """

    train: str | list[str] | None = None
    weight: float = 1.0
    val: str | list[str] | None = None
    text: str | Callable[[dict[str, Any]], str] = "text"
    max_epochs: float | None = None
    streaming: bool = False
    tokens: float | None = None  # no int: YAML's 852.7e9 is none
    columns: dict[str, str] | None = None
    encoding: str | None = None


@dataclass
class Mixture:
    """Sources and their weights, which may change.

    Args:
        sources: name → source.
        weight_changes: optimizer step → name → weight from that step on; a source that is not named has no
            share then.
        temperature: τ; the shares become weight × tokens^τ, also after changes. None = the weights alone.
    """

    sources: Mapping[str, Source]
    weight_changes: Mapping[int, Mapping[str, float]] = field(default_factory=dict)
    temperature: float | None = None

    def config_errors(self) -> list[str]:
        """What makes this mixture impossible, a line each; asked before anything is read."""
        errors = [] if self.sources else ["data.sources is empty: name at least one source"]
        for name, source in self.sources.items():
            errors += self._source_errors(f"data.sources.{name}", name, source)
        for step, weights in self.weight_changes.items():
            errors += self._change_errors(f"data.weight_changes.{step}", step, weights)
        return errors

    def _source_errors(self, where: str, name: str, source: Source) -> list[str]:
        if source.weight is None:  # what a YAML's `weight:` without a value becomes
            return [f"{where}.weight is null: give a value, or leave it out"]
        errors = []
        later = any(weights.get(name) for weights in self.weight_changes.values())
        if not (0 < source.weight < float("inf") or (source.weight == 0 and later)):
            errors.append(
                f"{where}.weight is {source.weight}: give a number above 0 (or 0, where data.weight_changes "
                "gives it one later)"
            )
        if source.max_epochs is not None and not source.max_epochs > 0:
            errors.append(f"{where}.max_epochs is {source.max_epochs}: give a number above 0")
        if source.streaming and self.temperature is not None:
            errors.append(f"data.temperature needs the size of {name}, which is streaming: give weights")
        return errors

    def _change_errors(self, where: str, step: int, weights: Mapping[str, float]) -> list[str]:
        unknown = [name for name in weights if name not in self.sources]
        names = ", ".join(self.sources)
        errors = [f"{where} names {name}, which is no source: choose from {names}" for name in unknown]
        if step < 1:
            errors.append(f"{where}: give an optimizer step after the first")
        fine = all(0 <= weight < float("inf") for weight in weights.values())
        if not (fine and any(weights.values())):
            errors.append(f"{where}: give weights of 0 or more, one of them above 0")
        return errors

    def schedule(self, step: int, sizes: Sequence[float] = ()) -> MixtureSchedule:
        """Which source comes next.

        Args:
            step: what an optimizer step draws: blocks, or tokens where the schedule's blocks are of one.
            sizes: tokens of each source, where there is a temperature.

        Raises:
            UserError: a temperature too large for the sizes.
        """
        weights = {0: [source.weight for source in self.sources.values()]}
        for change, given in self.weight_changes.items():
            weights[change * step] = [given.get(name, 0.0) for name in self.sources]
        if self.temperature is not None:
            try:
                by_size = temperature_weights(sizes, self.temperature)
            except OverflowError as error:
                raise UserError(
                    f"data.temperature is {self.temperature:g}, too large to raise tokens to: 1 is in "
                    "proportion to size"
                ) from error
            weights = {at: [w * s for w, s in zip(ws, by_size, strict=True)] for at, ws in weights.items()}
        return MixtureSchedule(weights.pop(0), weights)
