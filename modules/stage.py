"""What the four stages share: where weights come from, how a loss is normalised, the optimizer, who may be
the parent."""

import math
from collections.abc import Callable, Iterable, Mapping
from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar, Literal, NamedTuple, cast

import lightning as L
import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torch.optim.lr_scheduler import LambdaLR
from torchmetrics import SumMetric
from transformers import PreTrainedModel

from modules.backbone import LanguageModel, ScalarModel, full_tensor
from modules.errors import UserError
from modules.hf_config import in_a_line
from modules.hf_export import networks
from modules.hf_load import parent_problem
from modules.optim import decay_groups, warmup_cosine
from modules.rng_state import random_states, restore_random_state

Batch = dict[str, Any]


class NetworkSpec(NamedTuple):
    """One of a stage's networks, known before anything is built."""

    name: str
    argument: str
    source: str | dict[str, Any]
    head: Literal["language", "scalar"]
    trained: bool


class SamplingSpec(NamedTuple):
    """How a stage samples before it trains."""

    rows: int
    new_tokens: int
    epochs: int
    updates: int
    micro_batch_size: int


class Stage(L.LightningModule):
    """A stage of the curriculum.

    A subclass names itself (`stage`) and the stages it may start from (`parents`), builds its network in
    `configure_model` and reads its batch in `training_step`.

    Args:
        optimizer: makes the optimizer from parameter groups.
        warmup_steps: optimizer steps of linear warm-up.
        min_lr_ratio: where the cosine ends, as a share of the peak; 1 keeps the learning rate constant.
        activation_checkpointing: keep only the input of each block for the backward pass and compute the rest
            again.
    """

    stage: ClassVar[str]
    parents: ClassVar[tuple[str, ...]]
    tokens_seen: Tensor | int = 0
    """tokens this rank has trained on since it started or resumed, padding not counted; no buffer, which DDP
    would overwrite with rank 0's"""
    tokens_before: int = 0
    """tokens that all ranks had trained on when the run was resumed"""
    random_before: list[dict[str, Any]] | None = None
    """each rank's random numbers in the checkpoint that the run goes on from"""

    def __init__(
        self,
        optimizer: Callable[[Iterable], Optimizer],
        warmup_steps: int,
        min_lr_ratio: float,
        activation_checkpointing: bool,
    ):
        super().__init__()
        self.optimizer = optimizer
        self.warmup_steps = warmup_steps
        self.min_lr_ratio = min_lr_ratio
        self.activation_checkpointing = activation_checkpointing
        self.step_loss = SumMetric()

    @classmethod
    def network_specs(cls, arguments: Mapping[str, Any]) -> list[NetworkSpec]:
        """The networks that a stage with these arguments has."""
        raise NotImplementedError

    @classmethod
    def sampling_spec(cls, arguments: Mapping[str, Any]) -> SamplingSpec | None:
        """How a stage with these arguments samples; None where it trains on what it reads."""
        return None

    def config_errors(self, max_steps: int = -1) -> list[str]:
        """What makes this run impossible, a line each; asked before anything is built.

        Args:
            max_steps: optimizer steps of the run where they are known ahead, else −1.
        """
        lines = [
            parent_problem(name, path, parents) for name, path, parents in self.parent_checkpoints() if path
        ]
        found = [line for line in lines if line]
        if self.warmup_steps < 0:
            found.append(f"model.warmup_steps is {self.warmup_steps}: give 0 or more")
        if 0 < max_steps <= self.warmup_steps:
            found.append(_endless_warmup(self.warmup_steps, max_steps))
        try:
            self.optimizer([nn.Parameter(torch.zeros(1))])
        except (ValueError, TypeError, LookupError, RuntimeError) as error:
            found.append(f"model.optimizer: {in_a_line(error)}")
        else:
            found += [
                f"{name} is {rate:g}: give a number above 0"
                for name, rate in self.learning_rates().items()
                if not 0 < rate < math.inf
            ]
        if not 0 <= self.min_lr_ratio <= 1:
            found.append(
                f"model.min_lr_ratio is {self.min_lr_ratio}: give a share of the peak between 0 and 1"
            )
        return found

    def learning_rates(self) -> dict[str, float]:
        """The peak learning rates: field → value."""
        optimizer = self.optimizer([nn.Parameter(torch.zeros(1))])
        return {"model.optimizer's lr": optimizer.param_groups[0]["lr"]}

    def parent_checkpoints(self) -> list[tuple[str, str | None, tuple[str, ...]]]:
        """The checkpoints this stage starts from: argument, path, the stages it may come from."""
        raise NotImplementedError

    def trainable_modules(self) -> list[nn.Module]:
        """The modules the optimizer trains."""
        raise NotImplementedError

    def check_model(self, model: PreTrainedModel, generated: int = 0) -> None:
        """Refuses data that a model cannot read.

        Args:
            model: with an embedding and a number of positions.
            generated: tokens that are added to the longest row.

        Raises:
            UserError: token ids without an embedding, or rows longer than its positions.
        """
        data = self.trainer.datamodule  # type: ignore[attr-defined]
        rows = cast(nn.Embedding, model.get_input_embeddings()).num_embeddings
        if len(self.tokenizer) > rows:
            raise UserError(
                f"data.tokenizer: {data.tokenizer_path} has {len(self.tokenizer)} tokens, but "
                f"{model.name_or_path or 'the model'} has {rows} embeddings: give the tokenizer that belongs "
                "to it"
            )
        positions = getattr(model.config, "max_position_embeddings", None)
        longest = max(split.longest for split in data.splits.values()) + generated
        if positions is not None and longest > positions:
            raise UserError(
                f"data: the longest row has {longest} tokens{' with the response' if generated else ''}, the "
                "model "
                f"has {positions} positions: lower the data's length limit"
            )

    @property
    def tokenizer(self):
        """The data module's tokenizer."""
        return self.trainer.datamodule.tokenizer  # type: ignore[attr-defined]

    def _apply(self, fn: Callable, recurse: bool = True) -> "Stage":
        """Buffers keep their dtype where parameters change theirs: a rotary embedding's frequencies and PPO's
        coefficient are no numbers to round."""
        before = [(m, name, b) for m in self.modules() for name, b in m._buffers.items() if b is not None]
        super()._apply(fn, recurse)
        for module, name, buffer in before:
            now = module._buffers[name]
            if now is not None and now.dtype != buffer.dtype:
                module._buffers[name] = buffer.to(now.device)
        return self

    def setup(self, stage: str) -> None:
        trains = stage == "fit" and not self.trainer.fast_dev_run  # type: ignore[attr-defined]
        if found := self.config_errors(self.trainer.max_steps if trains else -1):
            raise UserError("\n".join(found))
        self.step_loss.process_group = self.data_group

    def normalized(self, loss_sum: Tensor, batch: Batch) -> Tensor:
        """The loss to return from `training_step`: Σ / normalizer over the whole optimizer step.

        Engines average gradients over ranks and over accumulated micro-batches; multiplying by both undoes
        it, so that the gradient is that of one sum over the step, however it was split.
        """
        loss = loss_sum / batch["normalizer"].to(loss_sum.dtype)
        self.step_loss.update(loss.detach())
        self.tokens_seen += (batch["document_ids"] >= 0).sum()
        return loss * (self.data_ranks() * self.trainer.accumulate_grad_batches)

    def data_ranks(self) -> int:
        """Ranks that share the rows of a step, over which engines average gradients."""
        return self._sampler().get("num_replicas", 1)

    def data_rank(self) -> int:
        """Which of them this one is."""
        return self._sampler().get("rank", 0)

    def _sampler(self) -> dict[str, int]:
        return getattr(self.trainer.strategy, "distributed_sampler_kwargs", None) or {}

    @property
    def data_group(self) -> Any:
        """The process group of ranks with different rows; None = all ranks."""
        return getattr(self.trainer.strategy, "data_group", None)

    def shard(self, network: LanguageModel | ScalarModel) -> Any:
        """The network as it is trained: in fp32, cut over the ranks where the strategy does that."""
        if self.activation_checkpointing:
            network.enable_activation_checkpointing()
        return self._ask_strategy("shard", lambda network: network.float())(network)

    def unsharded(self, network: nn.Module) -> AbstractContextManager:
        """While it lasts, the inner modules of a network that was cut can be called many times in a row."""
        return self._ask_strategy("unsharded", lambda network: nullcontext())(network)

    def any_rank(self, flag: Tensor) -> bool:
        """Whether something is so on this rank or, where ranks must call a cut network in step, on any."""
        return bool(self._ask_strategy("any_rank", lambda flag: flag)(flag))

    def microbatch(self, last: bool) -> nn.Module:
        """Itself, or the engine around it: what manual optimisation calls for the forward of one micro-batch.

        Args:
            last: whether the optimizer steps after its backward.
        """
        return self._ask_strategy("microbatch", lambda last: self)(last)

    def grad_norm(self, network: nn.Module) -> Tensor:
        """The norm of one network's gradients after the last backward of a step, before clipping."""
        return self._ask_strategy("grad_norm", lambda network: full_tensor(total_norm(network.parameters())))(
            network
        )

    @property
    def clips_gradients(self) -> bool:
        """Whether the strategy's engine clips the gradients, within its optimizer step."""
        return hasattr(self.trainer.strategy, "gradient_norm")

    def full_state_dict(self, module: nn.Module) -> dict[str, Tensor]:
        """A module's weights, whole again where they were cut; the first rank gets them, all must ask."""
        return self._ask_strategy("full_state_dict", lambda module: module.state_dict())(module)

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes files."""
        return self._trainer is None or self.trainer.is_global_zero

    def _ask_strategy(self, name: str, otherwise: Callable) -> Callable:
        return otherwise if self._trainer is None else getattr(self.trainer.strategy, name, otherwise)

    def on_test_epoch_start(self) -> None:
        self.on_validation_epoch_start()

    def test_step(self, batch: Batch, batch_idx: int) -> None:
        self.validation_step(batch, batch_idx)

    def on_test_epoch_end(self) -> None:
        self.on_validation_epoch_end()

    def on_train_batch_end(self, outputs: Any, batch: Batch, batch_idx: int) -> None:
        if self.automatic_optimization and (batch_idx + 1) % self.trainer.accumulate_grad_batches == 0:
            self.log("train/loss", self.step_loss.compute(), prog_bar=True)
            self.log("train/learning_rate", self.trainer.optimizers[0].param_groups[0]["lr"])
            norm = self._ask_strategy("gradient_norm", lambda: None)()
            if norm is not None:
                self.log("train/grad_norm", norm)
            self.step_loss.reset()

    def configure_gradient_clipping(
        self,
        optimizer: Optimizer,
        gradient_clip_val: int | float | None = None,
        gradient_clip_algorithm: str | None = None,
    ) -> None:
        if self.clips_gradients:
            return
        by_value = gradient_clip_algorithm == "value"
        self.log("train/grad_norm", self.clip_norm(optimizer, None if by_value else gradient_clip_val))
        if by_value:
            self.clip_gradients(optimizer, gradient_clip_val, gradient_clip_algorithm)

    def clip_norm(self, optimizer: Optimizer, max_norm: float | None) -> Tensor:
        """The norm of all gradients of `optimizer`, clipped to `max_norm` where it is given.

        Lightning refuses to clip for a fused optimizer under mixed precision, which is right only where a
        gradient scaler is at work (fp16).
        """
        parameters = [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
        norm = total_norm(parameters)
        if max_norm and getattr(self.trainer.precision_plugin, "scaler", None) is not None:
            self.clip_gradients(optimizer, max_norm, "norm")
        elif max_norm:
            torch.nn.utils.clip_grads_with_norm_(parameters, max_norm, norm)
        return full_tensor(norm)

    def total_steps(self) -> int:
        """Optimizer steps of the whole run, from the configuration alone.

        Lightning's own estimate would set the data up early, and its position would not be restored on
        resume.
        """
        if self.trainer.max_steps > 0:
            return self.trainer.max_steps
        steps = self.trainer.datamodule.steps_per_epoch  # type: ignore[attr-defined]
        limit = self.trainer.limit_train_batches
        if isinstance(limit, int):
            steps = min(steps, limit // self.trainer.accumulate_grad_batches)
        elif limit is not None:
            steps = int(steps * limit)
        return max(1, steps) * max(1, self.trainer.max_epochs or 1)

    def configure_optimizers(self) -> Any:
        optimizer = self.optimizer(decay_groups(self.trainable_modules()))
        self.check_scaler(optimizer)
        return {
            "optimizer": optimizer,
            "lr_scheduler": {"scheduler": self.schedule(optimizer), "interval": "step"},
        }

    def check_scaler(self, optimizer: Optimizer) -> None:
        """Where a gradient scaler is at work (fp16), the norm to clip by must be of unscaled gradients.

        Raises:
            UserError: Lightning unscales them later than that.
        """
        if getattr(self.trainer.precision_plugin, "scaler", None) is None:
            return
        if not self.automatic_optimization:
            raise UserError(
                "trainer.precision 16-mixed scales the gradients, which this stage would clip as they are: "
                "give bf16-mixed, or the strategy `strategies.deepspeed`"
            )
        if any(group.get("fused") for group in optimizer.param_groups):
            raise UserError(
                "trainer.precision 16-mixed scales the gradients, which a fused optimizer unscales after "
                "they were to be clipped: give bf16-mixed, or `model.optimizer.init_args.fused: false`"
            )

    def schedule(self, optimizer: Optimizer) -> LambdaLR:
        """Warm-up and cosine over the whole run.

        Raises:
            UserError: the run ends before the warm-up does.
        """
        total = self.total_steps()
        if total <= self.warmup_steps and not self.trainer.fast_dev_run:  # type: ignore[attr-defined]
            raise UserError(_endless_warmup(self.warmup_steps, total))
        return warmup_cosine(optimizer, self.warmup_steps, total, self.min_lr_ratio)

    def total_tokens(self) -> int:
        """Tokens that all ranks have trained on in the whole run; every rank must ask."""
        seen = torch.as_tensor(self.tokens_seen, device=self.device).clone()
        total = self.trainer.strategy.reduce(seen, self.data_group, reduce_op="sum")
        return self.tokens_before + int(total)

    def on_save_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        checkpoint["stage"] = self.stage
        checkpoint["tokens"] = self.total_tokens()
        checkpoint["random"] = random_states()
        checkpoint["accumulate"] = self.trainer.accumulate_grad_batches
        checkpoint["inputs"] = {name: path for name, path, _ in self.parent_checkpoints()}
        checkpoint["tokenizer"] = self.trainer.datamodule.tokenizer_path  # type: ignore[attr-defined]
        checkpoint["networks"] = networks(self)

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        stage = checkpoint.get("stage", "unknown")
        if stage != self.stage:
            raise UserError(
                f"ckpt_path is a checkpoint of stage `{stage}`, this run is stage `{self.stage}`: "
                f"resume with a `{self.stage}` checkpoint, or start from the other stage's `export/` "
                "directory"
            )
        if self._trainer is not None:
            _count_batches_anew(checkpoint, self.trainer.accumulate_grad_batches)
        self.tokens_before = checkpoint["tokens"]
        self.random_before = checkpoint["random"]

    def on_train_start(self) -> None:
        if self.random_before is not None:
            restore_random_state(self.random_before)
            self.random_before = None


def total_norm(parameters: Iterable[nn.Parameter]) -> Tensor:
    """The norm of all gradients together; of a cut network, a tensor that is cut too."""
    return torch.nn.utils.get_total_norm([p.grad for p in parameters if p.grad is not None])


def _count_batches_anew(checkpoint: dict[str, Any], accumulate: int) -> None:
    """Lightning counts micro-batches, of which a step may have another number on other ranks: left as it is,
    the count would end the first step in its middle."""
    before = checkpoint.get("accumulate", accumulate)
    for counts in checkpoint["loops"]["fit_loop"]["epoch_loop.batch_progress"].values():
        if isinstance(counts, dict):
            counts.update({name: count * accumulate // before for name, count in counts.items()})


def _endless_warmup(warmup_steps: int, steps: int) -> str:
    return (
        f"model.warmup_steps is {warmup_steps}, but the run has {steps} optimizer steps: the learning rate "
        "would never reach its peak; warm up for fewer, or train for more"
    )
