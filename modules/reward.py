"""Stage three: a reward model from ranked replies."""

import math
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar, cast

import torch
from lightning.pytorch.utilities import rank_zero_info
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from modules.backbone import ScalarModel
from modules.errors import UserError
from modules.hf_export import SEQUENCE_CLASSIFIER
from modules.hf_load import load_scalar_model
from modules.losses import ranking_loss, untied_pairs
from modules.metrics import Correlation, GroupedMean
from modules.optim import AdamW
from modules.probe import scalar_model
from modules.ranges import COUNT, NOT_NEGATIVE, range_errors
from modules.specs import ExportSpec, Goal, NetworkSpec
from modules.stage import TRAINING_LOGS, Batch, Stage
from modules.training_data import RankedData, check_model

CHANCE_BINS = 10  # of the predicted chance to win, for calibration
RATING_GAPS = (0.0, 1.0, 2.0)  # lower edges of the bins in which accuracy is reported


class RewardModule(Stage):
    """Trains a scalar head on the SFT model so that better replies score higher (InstructGPT's K-wise loss).

    Args:
        pretrained: a Hugging Face directory, usually SFT's `export/`.
        soft_labels: learn the share of people who preferred a reply, where the data tells it, instead of the
            order alone.
        centring: coefficient c of + c · mean(score²), 0 = off.
        offset_replies: how many training replies, at most, the mean score is taken over that PPO subtracts.
        optimizer: makes the optimizer from parameter groups; weight decay reaches matrices only.
        warmup_steps: optimizer steps of linear warm-up.
        kwargs: of `Stage`.
    """

    stage: ClassVar[str] = "reward"
    parents: ClassVar[tuple[str, ...]] = ("sft", "pretrain", "reward")
    reads: ClassVar[str] = "ranked_replies"
    logs: ClassVar[tuple[str, ...]] = (*TRAINING_LOGS, "val/loss", "reward/*")
    goal: ClassVar[Goal | None] = Goal("reward/accuracy", more_is_better=True)
    next_commands: ClassVar[tuple[str, ...]] = ("trivium fit --config ppo --model.init_args.reward {export}",)

    def __init__(
        self,
        pretrained: str,
        soft_labels: bool = False,
        centring: float = 0.0,
        offset_replies: int = 2048,
        optimizer: Callable[[Iterable], Optimizer] = lambda p: AdamW(p, lr=1e-5),
        warmup_steps: int = 20,
        **kwargs: Any,
    ):
        super().__init__(optimizer=optimizer, warmup_steps=warmup_steps, **kwargs)
        self.pretrained = pretrained
        self.soft_labels = soft_labels
        self.centring = centring
        self.offset_replies = offset_replies
        self.network: ScalarModel | None = None
        self.new_head = False
        self.mean_score = MeanMetric()
        self.offset: float | None = None

    @classmethod
    def network_specs(cls, arguments: Mapping[str, Any]) -> list[NetworkSpec]:
        return [NetworkSpec("reward", "pretrained", arguments["pretrained"], head="scalar", trained=True)]

    def config_errors(self, max_steps: int = -1) -> list[str]:
        ranges = {"centring": NOT_NEGATIVE, "offset_replies": COUNT}
        return super().config_errors(max_steps) + range_errors(self, ranges)

    def exports(self) -> list[ExportSpec]:
        model = ExportSpec("network.model", SEQUENCE_CLASSIFIER, self.stage, self.pretrained)
        unmeasured = {"offset": "the mean score"} if self.offset is None else {}
        return [model._replace(metadata={"offset": self.offset or 0.0}, unmeasured=unmeasured)]

    def parent_checkpoints(self) -> list[tuple[str, str | None, tuple[str, ...]]]:
        return [("pretrained", self.pretrained, self.parents)]

    def configure_model(self) -> None:
        if self.network is not None:
            return
        network = scalar_model(load_scalar_model(self.pretrained, self.draw_head)).train()
        if self._trainer is not None:
            check_model(network.model, self.data, "model.pretrained")
        self.network = self.shard(network)

    def draw_head(self, weight: nn.Parameter) -> None:
        """A new head, N(0, 1 / (D + 1)) as in Stiennon et al. 2020, where the weights hold none."""
        own = torch.Generator().manual_seed(torch.initial_seed())  # the same on every device
        std = 1 / math.sqrt(weight.shape[-1] + 1)
        with torch.no_grad():
            weight.copy_(std * torch.randn(weight.shape, generator=own, device="cpu"))
        self.new_head = True
        rank_zero_info(
            f"model.pretrained: {self.pretrained} has no reward head in its weights: a new one is drawn."
        )

    def on_train_start(self) -> None:
        super().on_train_start()
        self.new_head = False

    def on_load_checkpoint(self, checkpoint: dict[str, Any]) -> None:
        super().on_load_checkpoint(checkpoint)
        self.new_head = False

    def refuse_new_head(self) -> None:
        """Scores of a head that is neither in the weights nor trained nor read from a checkpoint say nothing.

        Raises:
            UserError: it is such a head.
        """
        if self.new_head and self.trainer.state.fn != "fit":
            raise UserError(
                f"model.pretrained: {self.pretrained} has no reward head in its weights, so its scores would "
                "be random: give the directory of a reward model, or a run's checkpoint as ckpt_path"
            )

    def on_validation_start(self) -> None:
        super().on_validation_start()
        self.refuse_new_head()

    def on_test_start(self) -> None:
        self.refuse_new_head()

    def on_predict_start(self) -> None:
        self.refuse_new_head()

    def forward(self, batch: Batch) -> Tensor:
        """The score of every reply, (K_total,) fp32, read at its last token."""
        assert self.network is not None
        rows = batch["input_ids"], batch["position_ids"], batch["document_ids"]
        scores = self.network(*rows, groups=batch["prompt_index"])  # a prompt is computed once
        row, column = batch["reply_ends"].unbind(1)
        return scores[row, column]

    def training_step(self, batch: Batch, batch_idx: int) -> Tensor:
        scores = self(batch)
        shares = batch["preferred"] if self.soft_labels else None
        loss_sum = ranking_loss(scores, batch["prompt_index"], batch["ratings"], shares)
        if self.centring:
            replies = torch.bincount(batch["prompt_index"])[batch["prompt_index"]]
            loss_sum = loss_sum + self.centring * (scores.square() / replies).sum()
        return self.normalized(loss_sum, batch)

    def on_validation_epoch_start(self) -> None:
        self.pair_metrics = GroupedMean(len(RATING_GAPS)).to(self.device)
        self.margin = MeanMetric().to(self.device)
        self.ranking = MeanMetric().to(self.device)
        self.chances = GroupedMean(CHANCE_BINS).to(self.device)
        self.outcomes = GroupedMean(CHANCE_BINS).to(self.device)
        self.length_correlation = Correlation().to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        real = batch["rows"] >= 0
        kept = real[batch["prompt_index"]]
        prompt, ratings, scores = batch["prompt_index"][kept], batch["ratings"][kept], self(batch)[kept]
        winners, losers = untied_pairs(prompt, ratings)
        difference, gap = scores[winners] - scores[losers], ratings[winners] - ratings[losers]
        right = (difference > 0).float() + 0.5 * (difference == 0).float()
        edges = torch.tensor(RATING_GAPS[1:], device=gap.device)
        self.pair_metrics.update(right, torch.ones_like(right), torch.bucketize(gap, edges, right=True))
        self.margin.update(difference)
        prompts = prompt[winners].unique().numel()
        self.ranking.update(ranking_loss(scores, prompt, ratings) / max(1, prompts), prompts)
        chance = torch.sigmoid(difference)  # each pair both ways round: once won, once lost
        chances = torch.cat([chance, 1 - chance])
        won = torch.cat([torch.ones_like(chance), torch.zeros_like(chance)])
        bins = (chances * CHANCE_BINS).long().clamp(max=CHANCE_BINS - 1)
        self.chances.update(chances, torch.ones_like(chances), bins)
        self.outcomes.update(won, torch.ones_like(won), bins)
        lengths = batch["position_ids"][batch["reply_ends"][kept].unbind(1)] + 1
        self.length_correlation.update(scores, lengths.float())

    def on_validation_epoch_end(self) -> None:
        right, pairs = self.pair_metrics.groups()
        self.log("val/loss", self.ranking.compute(), prog_bar=True)
        self.log("reward/accuracy", (right.sum() / pairs.sum()).float(), prog_bar=True)
        for edge, r, n in zip(RATING_GAPS, right, pairs, strict=True):
            self.log(f"reward/accuracy/gap_from_{edge:g}", (r / n).float())
        self.log("reward/margin", self.margin.compute())
        (chance, pairs), (won, _) = self.chances.groups(), self.outcomes.groups()
        self.log("reward/calibration_error", ((chance - won).abs().sum() / pairs.sum()).float())
        self.log("reward/length_correlation", self.length_correlation.compute())

    def on_train_end(self) -> None:
        self.measure_offset()

    @torch.no_grad()
    def measure_offset(self) -> None:
        """Takes the mean score over training replies, which PPO subtracts; every rank must ask."""
        self.mean_score.reset()
        self.eval()
        for batch in cast(RankedData, self.data).training_sample(self.offset_replies):
            batch = self.trainer.strategy.batch_to_device(batch)
            real = (batch["rows"] >= 0)[batch["prompt_index"]]
            self.mean_score.update(self(batch)[real])
        self.offset = float(self.mean_score.compute())

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The scores of each prompt's replies, in the replies' order."""
        scores, prompt = self(batch), batch["prompt_index"]
        return [
            {"row": row, "scores": scores[prompt == index].tolist()}
            for index, row in enumerate(batch["rows"].tolist())
            if row >= 0
        ]

    def export(self, directory: str, provenance: dict[str, Any]) -> None:
        if self.offset is None:  # training had ended before this run went on from its last checkpoint
            self.measure_offset()
        super().export(directory, provenance)
