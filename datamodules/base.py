"""What the four kinds of data share: tokenizer, refusals, step sampler, loaders, receipt."""

from abc import abstractmethod
from collections.abc import Collection, Mapping
from functools import cached_property
from typing import Any, ClassVar, Literal, NamedTuple, Protocol, runtime_checkable

import lightning as L
import numpy as np
from lightning.pytorch.strategies import ParallelStrategy

from datamodules.caching.row_encoder import RowEncoder
from datamodules.caching.split import EncodedRows, Split
from datamodules.caching.token_cache import TokenCache
from datamodules.collate import Batch
from datamodules.errors import UserError
from datamodules.layouts.reader import Kind, RowReader
from datamodules.layouts.recognise import check_columns
from datamodules.reading.fingerprint import fingerprint
from datamodules.reading.sources import read_rows
from datamodules.receipt import Receipts
from datamodules.rendering.stop_tokens import stop_tokens
from datamodules.rendering.templates import Template
from datamodules.rendering.tokenizer import load_tokenizer, vocabulary_size
from datamodules.sampling.loaders import EvalBatches, MakeBatch, StepLoader
from datamodules.sampling.mixture import GLOBAL_BATCH_SIZE
from datamodules.sampling.orders import RowOrder, Shuffled
from datamodules.sampling.step_sampler import StepSampler, scheduler_errors

OnBadRow = Literal["error", "skip"]
MAKERS = {
    "tokens": "MixedCorpusData or datamodules.InstructionData or datamodules.TokenData",
    "ranked_replies": "PreferenceData",
    "prompts": "PromptData",
}
"""kind of batch → who makes it here, to name where a stage is given another kind"""


class RowSpec(NamedTuple):
    """What a row of `micro_batch_size` is, for the plan."""

    sequences: int
    """that a row becomes in a batch: 1, or the replies to a prompt"""
    tokens: int
    """of a sequence at most"""
    note: str = ""
    """what was assumed, since nothing is read"""


@runtime_checkable
class FedStage(Protocol):
    """What a data module reads of the stage that it feeds; other `LightningModule`s have none of it."""

    reads: str
    """the kind of batch"""

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps that are made of one step's rows: 1, more in PPO."""


def too_small(field: str, value: Any, least: int) -> list[str]:
    """The line that refuses a number below `least`, or something that is no number; none where it is fine."""
    fine = isinstance(value, int | float) and value >= least
    return [] if fine else [f"{field} is {value}: give {least} or more"]


class TextDataModule(L.LightningDataModule):
    """A data module of which every optimizer step is known ahead.

    A subclass names the kind of batch that it `makes`, reads its splits in `read`, makes batches in `batch`.

    Args:
        tokenizer: a Hugging Face directory or cached hub name.
        global_batch_size: rows of an optimizer step over all ranks and micro-batches.
        micro_batch_size: rows of one forward on one rank; gradient accumulation follows from both.
        eval_batch_size: rows of one forward in validation and prediction.
        on_bad_row: `error` stops at a row that cannot be read or is of a wrong type, `skip` leaves it out.
        max_dropped: share of a source's rows that may be left out, for whatever reason.
        seed: of the order.
        num_workers: processes that prepare batches; 0 = in the training process.
        columns: our name for a column ← the file's own, `{instruction: query}`; a path (`meta.text`) where it
            lies inside another. What a known layout calls its columns need not be said.
        encoding: of text files, such as `gb18030`; None = UTF-8.
    """

    makes: ClassVar[str]
    """the kind of batch, which a stage `reads`: `tokens`, `ranked_replies`, `prompts` or a kind of its own"""
    rows: ClassVar[Kind] = "other"
    """the kind of rows whose layouts are recognised; `other` takes rows as they are"""

    def __init__(
        self,
        tokenizer: str,
        global_batch_size: int = GLOBAL_BATCH_SIZE,
        micro_batch_size: int = 8,
        eval_batch_size: int = 16,
        on_bad_row: OnBadRow = "error",
        max_dropped: float = 0.01,
        seed: int = 0,
        num_workers: int = 0,
        columns: dict[str, str] | None = None,
        encoding: str | None = None,
    ):
        super().__init__()
        self.tokenizer_path = tokenizer
        self.global_batch_size = global_batch_size
        self.micro_batch_size = micro_batch_size
        self.eval_batch_size = eval_batch_size
        self.on_bad_row, self.max_dropped = on_bad_row, max_dropped
        self.seed = seed
        self.num_workers = num_workers
        self.columns, self.encoding = columns, encoding
        self.val: str | list[str] | None = None
        self.splits: Mapping[str, Split] = {}

    @classmethod
    def row_spec(cls, arguments: Mapping[str, Any]) -> RowSpec:
        """The rows of a data module with these arguments, for the plan; defaults are filled in.

        Raises:
            UserError: it does not say.
        """
        if "max_length" not in arguments:
            raise UserError(f"data: the plan does not know how long the rows of {cls.__name__} are")
        return RowSpec(sequences=1, tokens=arguments["max_length"])

    @abstractmethod
    def read(self) -> Mapping[str, Split]:
        """Encodes (or finds in the cache) the splits: `train` and, where there is one, `val`."""

    @abstractmethod
    def batch(self, split: Any, rows: np.ndarray) -> Batch:
        """Row ids of a split (−1 = a row that fills up and must count for nothing) → batch."""

    def fingerprint(self, path: str | list[str], name: str) -> str:
        """The same for files of the same content, wherever they lie; `name` is the field, for messages."""
        return fingerprint(path, name)

    @cached_property
    def tokenizer(self) -> Any:
        """Loaded on first use; its pad token is never its eos token."""
        return load_tokenizer(self.tokenizer_path)

    @cached_property
    def vocabulary(self) -> int:
        """The tokenizer's ids are below it."""
        return vocabulary_size(self.tokenizer)

    @cached_property
    def stop_token_ids(self) -> tuple[int, ...]:
        """What ends a reply: the tokenizer's eos, then its chat template's turn end where that is another."""
        return stop_tokens(self.tokenizer)

    @property
    def source_names(self) -> list[str]:
        """What `source` in a batch counts through."""
        return ["data"]

    @property
    def longest_row(self) -> int:
        """Tokens of the longest row of any split; only once the data is set up."""
        return max(split.longest for split in self.splits.values())

    @property
    def has_validation(self) -> bool:
        """Whether there is anything to validate on."""
        return bool(self.val)

    @property
    def receipts(self) -> Receipts:
        """What became of every source's rows."""
        return Receipts(receipt for split in self.splits.values() for receipt in split.receipts)

    def pairing_errors(self, stage: Any) -> list[str]:
        """The line that refuses a stage of another kind of batch; none where the stage does not say."""
        if not isinstance(stage, FedStage) or stage.reads == self.makes:
            return []
        maker = MAKERS.get(stage.reads)
        remedy = f"datamodules.{maker}" if maker else f"one whose `makes` is {stage.reads!r}"
        return [
            f"data: {type(self).__name__} makes {self.makes}, but {type(stage).__name__} reads "
            f"{stage.reads}: give {remedy}, or a stage that reads {self.makes}"
        ]

    def config_errors(self, world_size: int, accumulate: int = 1) -> list[str]:
        """What makes this run impossible, a line each; asked before anything is read.

        Args:
            world_size: data-parallel ranks.
            accumulate: `trainer.accumulate_grad_batches` as it was given; 1 = it was not.
        """
        errors = []
        for name in ("global_batch_size", "micro_batch_size", "eval_batch_size"):
            errors += too_small(f"data.{name}", getattr(self, name), 1)
        for name in ("seed", "num_workers"):
            errors += too_small(f"data.{name}", getattr(self, name), 0)
        if not 0 <= self.max_dropped <= 1:
            errors.append(f"data.max_dropped is {self.max_dropped}: give a share between 0 and 1")
        errors += self.reader().config_errors("data")
        if not errors:
            errors = self._division_errors(world_size, accumulate)
        try:
            _ = self.tokenizer
        except UserError as error:
            errors.append(str(error))
        return errors

    def named_files(self) -> dict[str, str | list[str]]:
        """Field of the configuration → the files that it names."""
        files = {f"data.{name}": getattr(self, name, None) for name in ("train", "val")}
        return {field: paths for field, paths in files.items() if paths}

    def file_errors(self) -> list[str]:
        """What can be seen to be wrong with the files before a row of them is read, a line each; `read` would
        tell the first alone."""
        errors = []
        for field, paths in self.named_files().items():
            try:
                read_rows(paths, field, self.encoding)
            except UserError as error:
                errors.append(str(error))
        return errors

    def _division_errors(self, world_size: int, accumulate: int) -> list[str]:
        """How the rows of a step cannot be dealt out."""
        at_once = self.rows_per_forward(world_size) * world_size
        if self.global_batch_size % at_once:
            return [
                f"data.global_batch_size {self.global_batch_size} is not a multiple of "
                f"micro_batch_size {self.rows_per_forward(world_size)} × {world_size} ranks = {at_once}"
            ]
        if accumulate not in (1, self.global_batch_size // at_once):
            return [
                f"trainer.accumulate_grad_batches is {accumulate}, but global_batch_size "
                f"{self.global_batch_size} / "
                f"({at_once} rows at once) makes it {self.global_batch_size // at_once}: leave it out"
            ]
        return []

    def run_errors(self, steps: int) -> list[str]:
        """What makes a run of so many optimizer steps impossible, now that the data is read, a line each."""
        return []

    def _refuse(self) -> None:
        if self.trainer is not None:
            errors = self.pairing_errors(self.trainer.lightning_module)
            errors += self.config_errors(self.ranks()[0], self.trainer.accumulate_grad_batches)
            errors += scheduler_errors(self.trainer)
            if errors:
                raise UserError("\n".join(errors))

    def prepare_data(self) -> None:
        self._refuse()  # in a notebook this is the first call of all; nothing is read yet
        self.read()

    def setup(self, stage: str | None = None) -> None:
        self._refuse()
        self.splits = self.read()  # anew, since in a notebook files and fields may have changed meanwhile
        if self.trainer is not None and stage == "fit":
            self._fit_to(self.trainer)

    def _fit_to(self, trainer: L.Trainer) -> None:
        """Tells the trainer how many micro-batches a step has, and refuses a run that cannot be dealt out."""
        accumulate, limit = self.sampler().accumulate, trainer.limit_train_batches
        # Lightning steps the optimizer after so many batches, and divides losses by it, which the stages undo
        trainer.accumulate_grad_batches = accumulate
        if trainer.fast_dev_run:  # type: ignore[attr-defined]
            return
        errors = self.run_errors(self.steps_ahead)
        batches = int(limit if isinstance(limit, int) else len(self.train_dataloader()) * limit)
        if batches % accumulate:  # Lightning steps the optimizer at the end of an epoch, too
            errors.append(
                f"trainer.limit_train_batches is {limit}, {batches} micro-batches, no multiple of the "
                f"{accumulate} of a step: half a step would be taken as a whole one"
            )
        every = getattr(trainer, "val_check_interval", None)  # Lightning has none where a time is given
        if isinstance(every, int) and every > batches and trainer.check_val_every_n_epoch is not None:
            errors.append(
                f"trainer.val_check_interval is {every}, but an epoch has {batches} micro-batches: give "
                "fewer, or check_val_every_n_epoch: null to count through the epochs"
            )
        if errors:
            raise UserError("\n".join(errors))

    def __getstate__(self) -> dict[str, Any]:
        """What a process that prepares batches gets: no trainer, which cannot be sent, nor its model."""
        return {**self.__dict__, "trainer": None}

    def reader(
        self,
        template: Template | None = None,
        columns: dict[str, str] | None = None,
        encoding: str | None = None,
        also: Collection[str] = (),
    ) -> RowReader:
        """How a source's rows are read: `columns` and `encoding` are its own, where it has some; `also` names
        columns that are read whatever the layout."""
        columns = self.columns if columns is None else columns
        any_column = template is not None and template.reads_any_column
        return RowReader(self.rows, columns or {}, encoding or self.encoding, tuple(also), any_column)

    def encode(self, path: str | list[str], name: str, encoder: RowEncoder) -> EncodedRows:
        """The encoded rows of the source `path` of the field `name`, from its cache or into it.

        Raises:
            UserError: a bad row with its place, more left out than `max_dropped`, or nothing left.
        """
        cache = TokenCache(path, name, encoder)
        cache.refresh()
        if not cache.index.finished:
            check_columns(path, name, encoder.reader)
        cache.write(strict=self.on_bad_row == "error", max_dropped=self.max_dropped)
        return EncodedRows(cache)

    def ranks(self) -> tuple[int, int]:
        """Data-parallel ranks and which of them this is."""
        strategy = None if self.trainer is None else self.trainer.strategy
        if not isinstance(strategy, ParallelStrategy):  # one device
            return 1, 0
        # under tensor parallelism the ranks that share rows have one place here
        kwargs = strategy.distributed_sampler_kwargs
        return kwargs["num_replicas"], kwargs["rank"]

    def rows_per_forward(self, world_size: int) -> int:
        """Rows of one training forward on one of so many data-parallel ranks."""
        return self.micro_batch_size

    def order(self) -> RowOrder:
        """The endless order of training rows."""
        return Shuffled(len(self.splits["train"]), self.seed)

    def sampler(self) -> StepSampler:
        """Deals out the rows of this rank."""
        train, (world_size, rank) = self.splits["train"], self.ranks()
        return StepSampler(
            order=self.order(),
            lengths=train.lengths,
            weights=train.weights,
            global_batch_size=self.global_batch_size,
            micro_batch_size=self.rows_per_forward(world_size),
            world_size=world_size,
            rank=rank,
        )

    @property
    def steps_per_epoch(self) -> int:
        """Optimizer steps (PPO: iterations) until every row that is there has been seen once."""
        return max(1, len(self.splits["train"]) // self.global_batch_size)

    @property
    def steps_ahead(self) -> int:
        """Optimizer steps (PPO: iterations) of the whole run, by `max_steps` or by epochs."""
        assert self.trainer is not None
        if self.trainer.max_steps > 0:
            stage: Any = self.trainer.lightning_module
            updates = stage.updates_per_batch if isinstance(stage, FedStage) else 1
            return -(-self.trainer.max_steps // updates)
        return self.steps_per_epoch * max(1, self.trainer.max_epochs or 1)

    def step_batch(self, rows: np.ndarray, places: np.ndarray) -> Batch:
        """The training batch at some places of a step's rows."""
        return self.batch(self.splits["train"], rows[places])

    def train_dataloader(self) -> StepLoader:
        by_steps = self.trainer is not None and self.trainer.max_steps > 0
        steps = self.steps_ahead if by_steps else self.steps_per_epoch
        loader = StepLoader(self.sampler(), self.step_batch, steps, self.num_workers)
        if self.trainer is not None:  # it may have trained before, or reload its loader every few epochs
            total: Any = self.trainer.fit_loop.epoch_loop.batch_progress.total
            loader.load_state_dict({"step": total.processed // loader.sampler.accumulate})
        return loader

    def eval_batches(self, split: Split, make: MakeBatch, rows: np.ndarray | None = None) -> EvalBatches:
        """Every row of a split once (or those named), in batches of like length."""
        rows = split.row_ids() if rows is None else rows
        return EvalBatches(rows, split.lengths[rows], split.ids, self.eval_batch_size, make, *self.ranks())

    def eval_dataloader(self, name: str) -> EvalBatches | list:
        """A split's rows for evaluation; nothing where there is no such split."""
        if name not in self.splits:
            return []
        split = self.splits[name].unpacked
        return self.eval_batches(split, lambda rows: self.batch(split, rows))

    def val_dataloader(self) -> EvalBatches | list:
        return self.eval_dataloader("val")

    test_dataloader = val_dataloader

    def predict_dataloader(self) -> EvalBatches | list:
        return self.eval_dataloader("val" if "val" in self.splits else "train")
