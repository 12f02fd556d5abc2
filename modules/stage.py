"""What the four stages share: what a stage says of itself, how a loss is normalised, the optimizer, resuming,
and the hand-over to the next."""

from abc import abstractmethod
from collections.abc import Callable, Mapping
from contextlib import suppress
from itertools import chain
from typing import Any, ClassVar, TypeVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import SumMetric

from modules.averaging import copied
from modules.backbone import LanguageModel, ScalarModel
from modules.bad_steps import BadSteps, spoiled
from modules.clipping import check_scaler, clip_to_norm
from modules.continuation import Continuation
from modules.errors import UserError
from modules.export_check import check_exports
from modules.hf_export import write_export
from modules.hf_load import parent_problem
from modules.interruption import InterruptibleModule
from modules.optim import (
    decay_groups,
    endless_run_errors,
    endless_warmup,
    optimizer_errors,
    schedule_errors,
    warmup_cosine,
    warmup_stable_decay,
)
from modules.probe import network_errors
from modules.rng_state import random_states
from modules.sharding import Sharding, Unsharded
from modules.specs import ExportSpec, Goal, NetworkSpec, SamplingSpec
from modules.training_data import Batch, TrainingData, own_stop_tokens
from modules.vocabulary import vocabulary_digest, vocabulary_errors

__all__ = ["TRAINING_LOGS", "Batch", "ExportSpec", "NetworkSpec", "SamplingSpec", "Stage"]

TRAINING_LOGS = ("train/loss", "train/learning_rate", "train/grad_norm")
"""what every stage logs that Lightning steps"""

Network = TypeVar("Network", bound=LanguageModel | ScalarModel)


class Stage(InterruptibleModule):
    """A stage of the curriculum.

    A subclass names itself (`stage`), the stages it may start from (`parents`) and the kind of batch that it
    `reads`; it says which networks it has and what it exports, builds them in `configure_model`, and gives
    the loss in `training_step`. Nothing outside its file knows of it.

    Args:
        optimizer: makes the optimizer from parameter groups.
        warmup_steps: optimizer steps of linear warm-up.
        min_lr_ratio: where the learning rate ends, as a share of the peak; 1 keeps it constant.
        decay_share: the last share of the run, over which the rate falls in a line from the peak that it had
            kept until then; None = it falls along a cosine from the end of the warm-up on.
        activation_checkpointing: keep only the input of each block for the backward pass and compute the
            rest again: far less memory, about a third more time.
        max_bad_steps: steps in a row whose loss or gradients are not finite, and which are skipped, that end
            the run.
    """

    stage: ClassVar[str]
    parents: ClassVar[tuple[str, ...]]
    reads: ClassVar[str]
    """the kind of batch, that a data module `makes`: `tokens`, `ranked_replies`, `prompts`, or a new one"""
    logs: ClassVar[tuple[str, ...]] = ()
    """patterns of the names that it logs, for those who watch one (`monitor`); empty = not said"""
    goal: ClassVar[Goal | None] = None
    next_commands: ClassVar[tuple[str, ...]] = ()
    """what its result is good for, command lines in which `{export}` stands for the directory"""

    def __init__(
        self,
        optimizer: Callable[..., Optimizer],
        warmup_steps: int,
        min_lr_ratio: float = 0.1,
        decay_share: float | None = None,
        activation_checkpointing: bool = False,
        max_bad_steps: int = 3,
    ):
        super().__init__()
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.min_lr_ratio = min_lr_ratio
        self.decay_share = decay_share
        self.activation_checkpointing = activation_checkpointing
        self.max_bad_steps = max_bad_steps
        self.bad_steps = BadSteps(max_bad_steps)
        self.clipped_norm: Tensor | None = None  # of the gradients of the step, where no engine clips
        self.step_loss = SumMetric(nan_strategy="disable")  # else it leaves NaN out, and says 0
        # tokens that this rank has trained on since it started or resumed, padding not counted; no buffer,
        # which DDP would overwrite with rank 0's
        self.tokens_seen: Tensor | int = 0
        self.tokens_before = 0  # those of all ranks when the run was resumed
        self.continuation = Continuation()

    @classmethod
    @abstractmethod
    def network_specs(cls, arguments: Mapping[str, Any]) -> list[NetworkSpec]:
        """The networks that a stage with these arguments has, for the plan; defaults are filled in.

        Raises:
            UserError: the arguments contradict each other.
        """

    @classmethod
    def sampling_spec(cls, arguments: Mapping[str, Any]) -> SamplingSpec | None:
        """How a stage with these arguments samples, for the plan; None where it trains on what it reads."""
        return None

    @abstractmethod
    def exports(self) -> list[ExportSpec]:
        """The models that it hands on, the first one to the next stage."""

    @abstractmethod
    def parent_checkpoints(self) -> list[tuple[str, str | None, tuple[str, ...]]]:
        """The checkpoints this stage starts from: argument, path, the stages it may come from."""

    def trainable_modules(self) -> list[nn.Module]:
        """The modules the optimizer trains: all of `network`, where a stage says nothing else."""
        return [self.get_submodule("network")]

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps for each batch of the data module (or its accumulated micro-batches)."""
        return 1

    def config_errors(self, max_steps: int = -1) -> list[str]:
        """What makes this run impossible, a line each; asked before anything is built.

        Args:
            max_steps: optimizer steps of the run where they are known ahead, else −1.
        """
        parents = self.parent_checkpoints()
        problems = [parent_problem(name, path, stages) for name, path, stages in parents if path]
        networks: list[str] = []
        with suppress(UserError):  # arguments that contradict each other are told by the stage itself
            networks = network_errors(self.network_specs(vars(self)))
        return [
            *(line for line in problems if line),
            *networks,
            *(
                []
                if self.max_bad_steps > 0
                else [f"model.max_bad_steps is {self.max_bad_steps}: give 1 or more"]
            ),
            *schedule_errors(self.warmup_steps, self.min_lr_ratio, self.decay_share, max_steps),
            *optimizer_errors(self.make_optimizer, self.learning_rates()),
        ]

    def learning_rates(self) -> dict[str, float]:
        """The peak learning rates that the stage itself gives: field → value; else the optimizer's counts."""
        return {}

    def vocabulary_errors(self, data: TrainingData) -> list[str]:
        """The lines that refuse checkpoints whose own tokenizer is not the data's."""
        parents = [(name, path) for name, path, _ in self.parent_checkpoints() if path]
        return vocabulary_errors(parents, data.tokenizer_path, data.tokenizer)

    @property
    def data(self) -> TrainingData:
        """What it is trained on."""
        return self.trainer.datamodule  # type: ignore[attr-defined]

    @property
    def tokenizer(self) -> Any:
        """The data module's tokenizer."""
        return self.data.tokenizer

    @property
    def stop_token_ids(self) -> tuple[int, ...]:
        """What ends a reply, in all that this stage and its export generate; the tokenizer's eos is the
        first."""
        models: list[Any] = [self.get_submodule(spec.module) for spec in self.exports()]
        own = [own_stop_tokens(model, self.tokenizer) for model in models if model.can_generate()]
        return tuple(dict.fromkeys([*self.data.stop_token_ids, *chain(*own)]))

    @property
    def sharding(self) -> Sharding:
        """Who shards this stage's networks: its strategy, or nobody."""
        strategy = None if self._trainer is None else self.trainer.strategy
        return strategy if isinstance(strategy, Sharding) else Unsharded(self)

    def shard(self, network: Network) -> Network:
        """The network as it is trained: in fp32, sharded over the ranks where the strategy does that."""
        if self.activation_checkpointing:
            network.enable_activation_checkpointing()
        return self.sharding.shard(network)

    def data_ranks(self) -> int:
        """Ranks that share the rows of a step, over which engines average gradients."""
        return (self.trainer.distributed_sampler_kwargs or {}).get("num_replicas", 1)  # None in one process

    def data_rank(self) -> int:
        """Which of them this one is."""
        return (self.trainer.distributed_sampler_kwargs or {}).get("rank", 0)

    @property
    def data_group(self) -> Any:
        """The process group of ranks with different rows; None = all ranks."""
        return self.sharding.data_group()

    def _apply(self, fn: Callable, recurse: bool = True) -> "Stage":
        """Buffers keep their dtype where parameters change theirs: a rotary embedding's frequencies and PPO's
        coefficient are no numbers to round."""
        before = [(m, name, b) for m in self.modules() for name, b in m._buffers.items() if b is not None]
        super()._apply(fn, recurse)  # torch's own hook behind `to`, `float` and `cuda`; none is public
        for module, name, buffer in before:
            now = module._buffers[name]
            if now is not None and now.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(now.device)
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> "Stage":
        return copied(self, memo)

    def batch_errors(self, data: TrainingData, ranks: int) -> list[str]:
        """What makes training on the batches of `data` impossible, a line each, on so many data ranks."""
        return []

    def configure_callbacks(self) -> list[Any]:
        self.continuation.keep_random_state(self.trainer)
        return []

    def setup(self, stage: str) -> None:
        self.continuation.put_random_state_back()
        trains = stage == "fit" and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        errors = self.config_errors(self.trainer.max_steps if trains else -1)
        if stage == "fit":
            errors += self.batch_errors(self.data, self.data_ranks())
            errors += endless_run_errors(self.trainer.max_steps, self.trainer.max_epochs, self.min_lr_ratio)
        if errors := errors or self.vocabulary_errors(self.data):
            raise UserError("\n".join(errors))
        self.step_loss.process_group = self.data_group
        self.step_loss.reset()  # of a step that was broken off
        self.bad_steps = BadSteps(self.max_bad_steps)
        if stage == "fit":
            self.continuation.begin(self)

    def normalized(self, loss_sum: Tensor, batch: Batch) -> Tensor:
        """The loss to return from `training_step`: Σ / normalizer over the whole optimizer step.

        Engines average gradients over ranks and over accumulated micro-batches; multiplying by both undoes
        it, so that the gradient is that of one sum over the step, however it was split.
        """
        loss = loss_sum / batch["normalizer"].to(loss_sum.dtype)
        self.step_loss.update(loss.detach())
        self.bad_steps.note(loss, batch.get("rows"))
        self.tokens_seen += (batch["document_ids"] >= 0).sum()
        return spoiled(loss) * (self.data_ranks() * self.trainer.accumulate_grad_batches)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.automatic_optimization and (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            loss = self.step_loss.compute()
            self.log("train/loss", loss, prog_bar=True)
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
            self.log("train/grad_norm", self.end_step(loss))
            self.step_loss.reset()

    def clip(self, optimizer: Any, max_norm: float | None) -> None:
        """Clips the gradients of the step that comes, unless an engine does within it; where they are not
        finite, the step will change nothing."""
        self.clipped_norm = None if self.sharding.clips_gradients else clip_to_norm(optimizer, max_norm)

    def end_step(self, loss: Tensor | None = None) -> Tensor:
        """The norm of the gradients of the optimizer step that was just taken, or skipped, which is counted;
        every rank must ask.

        Raises:
            UserError: too many have been skipped in a row.
        """
        norm = self.sharding.grad_norm(self) if self.clipped_norm is None else self.clipped_norm
        bad = loss is not None and not torch.isfinite(loss)
        if not str(self.trainer.precision).startswith("16"):  # there too large gradients lower their scale
            bad = bad or not torch.isfinite(norm)
        self.bad_steps.end_step(bool(bad), self.trainer.global_step)
        return norm

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        by_value = gradient_clip_algorithm == "value"
        self.clip(optimizer, None if by_value else gradient_clip_val)
        if by_value and not self.sharding.clips_gradients:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def make_optimizer(self, groups: list[dict]) -> Optimizer:
        """The optimizer from parameter groups."""
        return self.optimizer(groups)

    def parameter_groups(self) -> list[dict]:
        """What the optimizer trains: matrices decay, vectors do not."""
        return decay_groups(self.trainable_modules())

    def configure_optimizers(self) -> Any:
        optimizer = self.make_optimizer(self.parameter_groups())
        check_scaler(self.trainer.precision_plugin, optimizer, self.automatic_optimization)
        self.continuation.note_optimizer(optimizer)
        scheduler = self.schedule(optimizer)
        self.continuation.carry_over(self, optimizer, scheduler)
        # under manual optimisation the stage steps it, and Lightning warns of an interval
        interval = {"interval": "step"} if self.automatic_optimization else {}
        return {"optimizer": optimizer, "lr_scheduler": {"scheduler": scheduler, **interval}}

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Warm-up and decay over the whole run, which may not end before the warm-up does."""
        total = self.total_steps()
        if total <= self.warmup_steps and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(endless_warmup(self.warmup_steps, total))
        steps = self.warmup_steps, total, self.min_lr_ratio
        if self.decay_share is None:
            return warmup_cosine(optimizer, *steps)
        return warmup_stable_decay(optimizer, *steps, self.decay_share)

    def total_steps(self) -> int:
        """Optimizer steps of the whole run, from the configuration alone.

        Lightning's own estimate (`estimated_stepping_batches`) would set the data up early, and its position
        would not be restored on resume (Lightning issue 20550).
        """
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps
        batches, limit = self.data.steps_per_epoch, self.trainer.limit_train_batches
        if isinstance(limit, int):  # micro-batches; a float is a share
            batches = min(batches, limit // self.trainer.accumulate_grad_batches)
        elif limit is not None:
            batches = int(batches * limit)
        return max(1, batches) * max(1, self.trainer.max_epochs or 1) * self.updates_per_batch

    def total_tokens(self) -> int:
        """Tokens that all ranks have trained on in the whole run; every rank must ask."""
        seen = torch.as_tensor(self.tokens_seen).to(self.trainer.strategy.root_device, copy=True)
        total = self.trainer.strategy.reduce(seen, self.data_group, reduce_op="sum")
        return self.tokens_before + int(total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = self.stage
        checkpoint["tokens"] = self.total_tokens()
        checkpoint["random"] = random_states()
        checkpoint["accumulate"] = self.trainer.accumulate_grad_batches
        checkpoint["tokenizer"] = self.data.tokenizer_path
        checkpoint["vocabulary"] = vocabulary_digest(self.tokenizer)
        checkpoint["settings"] = self.continuation.record
        checkpoint["exports"] = [spec._asdict() for spec in self.full_exports()]

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stage = checkpoint.get("stage", "unknown")
        if stage != self.stage:
            raise UserError(
                f"ckpt_path is a checkpoint of stage `{stage}`, this run is stage `{self.stage}`: "
                f"resume with a `{self.stage}` checkpoint, or start from the other stage's `export/` "
                "directory"
            )
        if self._trainer is not None:
            self.continuation.restore(self, checkpoint)
        self.tokens_before = checkpoint["tokens"]

    def on_fit_start(self) -> None:
        exports = self.full_exports()
        if self.trainer.is_global_zero and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            check_exports(exports, self.tokenizer)  # the rank that will write them

    def on_train_start(self) -> None:
        self.continuation.go_on(self)
        # that a short run logs at all, and each iteration of many updates
        batches = 1 if self.updates_per_batch > 1 else self.total_steps()
        trainer: Any = self.trainer
        trainer.log_every_n_steps = min(trainer.log_every_n_steps, batches)

    def export(self, directory: str, provenance: dict[str, Any]) -> None:
        """Writes the Hugging Face directory that hands this stage's result on; every rank must ask."""
        exports = self.full_exports()
        states = [self.sharding.full_state_dict(self.get_submodule(export.module)) for export in exports]
        if self._trainer is None or self.trainer.is_global_zero:
            write_export(exports, states, self.tokenizer, directory, provenance)

    def full_exports(self) -> list[ExportSpec]:
        """What it hands on, with what the networks themselves say."""
        specs, stops = self.exports(), self.stop_token_ids
        return [spec.with_configs_of(self.get_submodule(spec.module), stops) for spec in specs]
