"""What the four kinds of data share: tokenizer, step plan, loaders, receipt."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import lightning as L
import numpy as np

from datamodules.caching.encoded_rows import OnBadRow
from datamodules.errors import UserError
from datamodules.receipt import Receipt
from datamodules.rendering.tokenizer import load_tokenizer
from datamodules.sampling.step_sampler import Batch, EvalBatches, RowOrder, Shuffled, StepLoader, StepSampler


def too_small(field: str, value: Any, least: int) -> list[str]:
    """The line that refuses a number below `least`, or something that is no number; none where it is fine."""
    fine = isinstance(value, int | float) and value >= least
    return [] if fine else [f"{field} is {value}: give {least} or more"]


class RowSpec(NamedTuple):
    """The rows of a data module, known before anything is read."""

    sequences: int
    tokens: int
    packed: bool
    note: str = ""


class TextDataModule(L.LightningDataModule):
    """A data module whose every optimizer step is planned.

    A subclass reads its splits in `read` and makes batches in `collate`.

    Args:
        tokenizer: a Hugging Face directory or cached hub name.
        global_batch_size: rows of an optimizer step over all ranks and micro-batches.
        micro_batch_size: rows of one forward on one rank; gradient accumulation follows from both.
        eval_batch_size: rows of one forward in validation and prediction.
        on_bad_row: `error` stops at a row that cannot be read or is of a wrong type, `skip` leaves it out.
        max_dropped: share of a source's rows that may be left out, for whatever reason.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
    """

    def __init__(
        self,
        tokenizer: str,
        global_batch_size: int,
        micro_batch_size: int,
        eval_batch_size: int,
        on_bad_row: OnBadRow,
        max_dropped: float,
        seed: int,
        num_workers: int,
    ):
        super().__init__()
        self.tokenizer_path = tokenizer
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.eval_batch_size = eval_batch_size
        self.on_bad_row, self.max_dropped = on_bad_row, max_dropped
        self.seed = seed
        self.num_workers = num_workers
        self.splits: dict[str, Any] = {}
        self._tokenizer: Any = None

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        """What rows a data module with these arguments has."""
        if "max_length" not in arguments:
            raise UserError(f"data: the plan does not know how long the rows of {cls.__name__} are")
        return RowSpec(1, arguments["max_length"], False)

    @property
    def tokenizer(self) -> Any:
        """Loaded on first use; its pad token is never its eos token."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self.tokenizer_path)
        return self._tokenizer

    @property
    def source_names(self) -> list[str]:
        """What `source` in a batch counts through."""
        return ["data"]

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to validate on."""
        return bool(getattr(self, "val", None))

    @abstractmethod
    def read(self) -> dict[str, Any]:
        """Encodes (or finds in the cache) the splits: `train` and, where there is one, `val`. A split has a
        length, `lengths`, `weights`, receipts, and `unpacked`, itself row by row."""

    @abstractmethod
    def batch(self, data: Any, rows: np.ndarray) -> Batch:
        """Row ids of a split's data (−1 = a row that counts for nothing) → batch."""

    def collate(self, split: str, rows: np.ndarray) -> Batch:
        """Row ids of a split, as it is trained on → batch."""
        return self.batch(self.splits[split], rows)

    @property
    def receipts(self) -> list[Receipt]:
        """What became of every source's rows."""
        return [receipt for split in self.splits.values() for receipt in split.receipts]

    def order(self) -> RowOrder:
        """The endless order of training rows."""
        return Shuffled(len(self.splits["train"]), self.seed)

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        """What makes this run impossible, a line each; asked before anything is read."""
        found = []
        for name in ("global_batch_size", "micro_batch_size", "eval_batch_size"):
            found += too_small(f"data.{name}", getattr(self, name), 1)
        if not 0 <= self.max_dropped <= 1:
            found.append(f"data.max_dropped is {self.max_dropped}: give a share between 0 and 1")
        if found:
            return found
        rows = self.micro_batch_size * world_size
        if self.global_batch_size % rows:
            found.append(
                f"data.global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.micro_batch_size} × {world_size} ranks = {rows}"
            )
        elif accumulate not in (1, self.global_batch_size // rows):
            found.append(
                f"trainer.accumulate_grad_batches is {accumulate}, but global_batch_size "
                f"{self.global_batch_size} / "
                f"({rows} rows at once) makes it {self.global_batch_size // rows}: leave it out"
            )
        try:
            _ = self.tokenizer
        except UserError as error:
            found.append(str(error))
        return found

    def prepare_data(self) -> None:
        self.read()

    def setup(self, stage: str | None = None) -> None:
        if self.trainer is not None:
            found = self.config_errors(self.ranks()[0], self.trainer.accumulate_grad_batches)
            if found:
                raise UserError("\n".join(found))
        if not self.splits:
            self.splits = self.read()
        if self.trainer is not None and stage == "fit":
            accumulate, limit = self.sampler().accumulate, self.trainer.limit_train_batches
            trial = self.trainer.fast_dev_run  # type: ignore[attr-defined]
            batches = int(limit if isinstance(limit, int) else len(self.train_dataloader()) * limit)
            if batches % accumulate and not trial:
                raise UserError(
                    f"trainer.limit_train_batches is {limit}, {batches} micro-batches, no multiple of the "
                    f"{accumulate} of a step: half a step would be taken as a whole one"
                )
            self.trainer.accumulate_grad_batches = accumulate
            if not trial:
                self.check_epochs(self.steps_ahead)

    @property
    def writes(self) -> bool:
        """Whether this process fills the caches of its machine."""
        return self.trainer is None or self.trainer.local_rank == 0

    def ranks(self) -> tuple[int, int]:
        """Data-parallel ranks and which of them this is."""
        if self.trainer is None:
            return 1, 0
        kwargs = getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) or {}
        return kwargs.get("num_replicas", 1), kwargs.get("rank", 0)

    def sampler(self) -> StepSampler:
        """The step plan of this rank."""
        train = self.splits["train"]
        return StepSampler(
            self.order(),
            train.lengths,
            train.weights,
            self.global_batch_size,
            self.micro_batch_size,
            *self.ranks(),
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps until every row has been seen once, at least one."""
        return max(1, len(self.splits["train"]) // self.global_batch_size)

    @property
    def steps_ahead(self) -> int:
        """Optimizer steps (PPO: iterations) of the whole run, by `max_steps` or by epochs."""
        assert self.trainer is not None
        if self.trainer.max_steps > 0:
            updates = getattr(self.trainer.lightning_module, "updates_per_batch", 1)
            return -(-self.trainer.max_steps // updates)
        return self.steps_per_epoch * max(1, self.trainer.max_epochs or 1)

    def check_epochs(self, steps: int) -> None:
        """Refuses a run of so many steps that would see its data more often than it may."""

    def __getstate__(self) -> dict[str, Any]:
        """What a process that prepares batches gets: no trainer, which cannot be sent, nor its model."""
        return {**self.__dict__, "trainer": None}

    def step_batch(self, rows: np.ndarray, places: np.ndarray) -> Batch:
        """The training batch at some places of a step's rows."""
        return self.collate("train", rows[places])

    def train_dataloader(self) -> StepLoader:
        by_steps = self.trainer is not None and self.trainer.max_steps > 0
        steps = self.steps_ahead if by_steps else self.steps_per_epoch
        return StepLoader(self.sampler(), self.step_batch, steps, self.num_workers)

    def eval_batches(
        self, split: Any, make: Callable[[np.ndarray], Batch], rows: np.ndarray | None = None
    ) -> EvalBatches:
        """Every row of a split once (or those named), in batches of like length."""
        rows = np.arange(len(split)) if rows is None else rows
        return EvalBatches(rows, split.lengths[rows], split.ids, self.eval_batch_size, make, *self.ranks())

    def eval_dataloader(self, split: str) -> EvalBatches | list:
        """A split's rows for evaluation; nothing where there is no such split."""
        if split not in self.splits:
            return []
        data = self.splits[split].unpacked
        return self.eval_batches(data, lambda rows: self.batch(data, rows))

    def val_dataloader(self) -> EvalBatches | list:
        return self.eval_dataloader("val")

    def test_dataloader(self) -> EvalBatches | list:
        return self.eval_dataloader("val")

    def predict_dataloader(self) -> EvalBatches | list:
        return self.eval_dataloader("val" if "val" in self.splits else "train")
