"""Stage four: PPO from a reward model, with actor, critic, reference and reward model in one
LightningModule."""

from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import islice
from typing import Any, ClassVar, cast

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MeanMetric

from modules import rl
from modules.backbone import LanguageModel
from modules.generation import generate, uniforms
from modules.hf_export import LANGUAGE_MODEL, critic_export
from modules.hf_load import load_causal_lm, load_scalar_model, read_provenance
from modules.optim import AdamW, decay_groups
from modules.ppo_checks import (
    UpdateMetrics,
    argument_errors,
    batch_errors,
    check_first_ratio,
    check_same_policy,
    rollout_metrics,
)
from modules.probe import language_model, scalar_model
from modules.rollout import ActorCritic, Rollout, Sequences, logprobs, minibatch_order, scores, values
from modules.specs import ExportSpec, Goal, NetworkSpec, SamplingSpec
from modules.stage import Batch, Stage
from modules.training_data import TrainingData, check_model

EVALUATION = 2**31  # the "iteration" whose random numbers validation and predict use


class PPOModule(Stage):
    """Proximal policy optimisation of a language model against a reward model.

    One batch is one iteration: sample a response to each of its prompts, score, estimate advantages, then
    `epochs` passes of `minibatches` optimizer steps each.

    Args:
        actor: a Hugging Face directory, usually SFT's `export/` (or PPO's, to go on or to predict).
        reward: the reward model's directory; the critic starts from it too.
        reference: what the KL is measured to; the actor's start when missing.
        optimizer: makes the one optimizer from the groups of actor and critic and a learning rate, which is
            `actor_lr`; the critic's groups have their own.
        actor_lr: peak learning rate of the actor.
        critic_lr: peak learning rate of the critic.
        warmup_steps: optimizer steps of linear warm-up.
        min_lr_ratio: where the cosine ends, as a share of the peak; 1 = constant.
        max_new_tokens: limit of a response, in tokens.
        temperature: of sampling, and of every log-prob.
        epochs: passes over an iteration's samples.
        minibatches: optimizer steps in a pass.
        micro_batch_size: sequences of one training forward.
        rollout_batch_size: sequences sampled together.
        clip_eps: ε of the policy's clip.
        value_clip_eps: ε_v of the value's clip.
        value_coef: weight of the value loss.
        gamma: discount.
        gae_lambda: λ of generalised advantage estimation.
        kl_coef: weight of the KL penalty in the rewards.
        kl_target: nats per sequence that the coefficient is adapted to; None = fixed coefficient.
        kl_horizon: sequences over which the adapted coefficient may move by a fifth.
        score_clip: scores are clipped to ± this.
        missing_eos_penalty: off the score of a response that did not end within the limit.
        max_approx_kl: ends an iteration's passes early when the mean approximate KL old → new is above it;
            None = never.
        max_grad_norm: one norm over actor and critic, clipped to this; 0 or less = not clipped.
        seed: of the sampling.
        kwargs: of `Stage`.
    """

    stage: ClassVar[str] = "ppo"
    parents: ClassVar[tuple[str, ...]] = ("sft", "ppo")
    reads: ClassVar[str] = "prompts"
    logs: ClassVar[tuple[str, ...]] = ("ppo/*", "val/score", "val/kl_per_sequence")
    goal: ClassVar[Goal | None] = Goal("val/score", more_is_better=True)
    next_commands: ClassVar[tuple[str, ...]] = ("trivium chat {export}",)
    kl_coef: Tensor

    def __init__(
        self,
        actor: str,
        reward: str,
        reference: str | None = None,
        optimizer: Callable[[Iterable, float], Optimizer] = lambda params, lr: AdamW(params, lr, eps=1e-5),
        actor_lr: float = 2e-6,
        critic_lr: float = 5e-6,
        warmup_steps: int = 0,
        min_lr_ratio: float = 1.0,
        max_new_tokens: int = 64,
        temperature: float = 1.0,
        epochs: int = 4,
        minibatches: int = 4,
        micro_batch_size: int = 16,
        rollout_batch_size: int = 64,
        clip_eps: float = 0.2,
        value_clip_eps: float = 0.2,
        value_coef: float = 0.1,
        gamma: float = 1.0,
        gae_lambda: float = 0.95,
        kl_coef: float = 0.05,
        kl_target: float | None = None,
        kl_horizon: int = 10_000,
        score_clip: float = 10.0,
        missing_eos_penalty: float = 1.0,
        max_approx_kl: float | None = None,
        max_grad_norm: float = 1.0,
        seed: int = 0,
        **kwargs: Any,
    ):
        super().__init__(optimizer=optimizer, warmup_steps=warmup_steps, min_lr_ratio=min_lr_ratio, **kwargs)
        self.automatic_optimization = False
        self.actor, self.reward, self.reference = actor, reward, reference or actor
        self.actor_lr, self.critic_lr = actor_lr, critic_lr
        self.max_new_tokens, self.temperature = max_new_tokens, temperature
        self.epochs, self.minibatches = epochs, minibatches
        self.micro_batch_size, self.rollout_batch_size = micro_batch_size, rollout_batch_size
        self.clip_eps, self.value_clip_eps, self.value_coef = clip_eps, value_clip_eps, value_coef
        self.gamma, self.gae_lambda = gamma, gae_lambda
        self.kl_target, self.kl_horizon = kl_target, kl_horizon
        self.score_clip, self.missing_eos_penalty = score_clip, missing_eos_penalty
        self.max_approx_kl, self.max_grad_norm, self.seed = max_approx_kl, max_grad_norm, seed
        self.register_buffer("kl_coef", torch.tensor(float(kl_coef), dtype=torch.float64))
        self.network: ActorCritic | None = None

    @classmethod
    def network_specs(cls, arguments: Mapping[str, Any]) -> list[NetworkSpec]:
        actor, reward = arguments["actor"], arguments["reward"]
        reference = arguments.get("reference") or actor
        origin = "actor" if reference == actor else "reference"
        return [
            NetworkSpec("actor", "actor", actor, head="language", trained=True),
            NetworkSpec("critic", "reward", reward, head="scalar", trained=True),
            NetworkSpec("reference", origin, reference, head="language", trained=False),
            NetworkSpec("reward", "reward", reward, head="scalar", trained=False),
        ]

    @classmethod
    def sampling_spec(cls, arguments: Mapping[str, Any]) -> SamplingSpec:
        return SamplingSpec(
            rows=arguments["rollout_batch_size"],
            new_tokens=arguments["max_new_tokens"],
            epochs=arguments["epochs"],
            updates=arguments["epochs"] * arguments["minibatches"],
            micro_batch_size=arguments["micro_batch_size"],
        )

    def exports(self) -> list[ExportSpec]:
        assert self.network is not None
        metadata = {"reward": self.reward}
        actor = ExportSpec("network.actor.model", LANGUAGE_MODEL, self.stage, self.actor, metadata=metadata)
        return [actor, critic_export("network.critic.model", self.network.critic, self.actor, metadata)]

    def config_errors(self, max_steps: int = -1) -> list[str]:
        return super().config_errors(max_steps) + argument_errors(self, max_steps)

    def batch_errors(self, data: TrainingData, ranks: int) -> list[str]:
        return batch_errors(data.global_batch_size, self.minibatches, ranks)

    def parent_checkpoints(self) -> list[tuple[str, str | None, tuple[str, ...]]]:
        return [
            ("actor", self.actor, self.parents),
            ("reference", self.reference, self.parents),
            ("reward", self.reward, ("reward",)),
        ]

    def trainable_modules(self) -> list[nn.Module]:
        assert self.network is not None
        return [self.network.actor, self.network.critic]

    def configure_model(self) -> None:
        if self.network is not None:
            return
        offset = read_provenance(self.reward).get("offset", 0.0)
        network = ActorCritic(
            actor=language_model(load_causal_lm(self.actor), fp32_head=True),
            critic=scalar_model(load_scalar_model(self.reward), offset),
            reference=language_model(load_causal_lm(self.reference), fp32_head=True),
            reward=scalar_model(load_scalar_model(self.reward), offset),
        )
        if self._trainer is not None:
            for name in ("actor", "reference", "reward", "critic"):
                argument = "reward" if name == "critic" else name
                model: Any = getattr(network, name).model
                check_model(model, self.data, f"model.{argument}", generated=self.max_new_tokens)
        for model in (network.actor, network.critic, network.reference, network.reward):
            self.shard(model)
        self.network = network

    def learning_rates(self) -> dict[str, float]:
        return {"model.actor_lr": self.actor_lr, "model.critic_lr": self.critic_lr}

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps of one iteration."""
        return self.epochs * self.minibatches

    def make_optimizer(self, groups: list[dict]) -> Optimizer:
        return self.optimizer(groups, self.actor_lr)

    def parameter_groups(self) -> list[dict]:
        assert self.network is not None
        critic = [{**group, "lr": self.critic_lr} for group in decay_groups([self.network.critic])]
        return [*decay_groups([self.network.actor]), *critic]

    def forward(self, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and values (B, R) of a rollout's response tokens by actor and critic."""
        assert self.network is not None
        return self.network(rollout, temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        # 1 sample, 2 score, 3 estimate advantages over the samples of all ranks, 4 update
        iteration = int(batch["step"])
        sampled = self.sample(batch, iteration)
        self.tokens_seen += sampled.prompt_mask.sum() + sampled.response_mask.sum()
        rollout = self.gather(batch, sampled)
        order = minibatch_order(self.seed, iteration, len(rollout.scores), self.minibatches)
        passes = list(islice(order, self.epochs))
        rollout = self.estimate(self.recompute(rollout, passes[0]))
        self.log_dict(rollout_metrics(rollout, self.stop_token_ids, self.score_clip))
        if self.global_step == 0 and self.reference == self.actor:
            check_same_policy(rollout, self.trainer.precision)
        self.update_metrics = UpdateMetrics(self.device)
        for epoch, minibatches in enumerate(passes):
            for index, rows in enumerate(minibatches):
                self.update(rollout, rows, first=epoch == index == 0)
            if self.max_approx_kl and self.update_metrics.approx_kl() > self.max_approx_kl:
                break
        self.log_dict(self.update_metrics.compute())
        self.adapt_kl(rollout)

    @torch.no_grad()
    def sample(self, batch: Batch, iteration: int) -> Rollout:
        """Samples and scores this rank's prompts; what `recompute` and `estimate` fill in is still empty.

        Of sharded networks no more than one at a time is unsharded.
        """
        assert self.network is not None
        network = self.network
        keys = ("prompt_ids", "prompt_mask", "prompt_index")
        chunks = zip(*(batch[key].split(self.rollout_batch_size) for key in keys), strict=True)
        with self.sharding.unsharded(network.actor):
            parts = [self.respond(ids, mask, index, iteration) for ids, mask, index in chunks]
        rows = [part.joined() for part in parts]
        references = self.logprobs(network.reference, rows)
        with self.sharding.unsharded(network.reward):
            rewards = [scores(network.reward, row) for row in rows]
        sampled = Rollout(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
        ended = sampled.ended(self.stop_token_ids)
        raw = torch.cat(rewards).clamp(-self.score_clip, self.score_clip)
        return sampled._replace(
            ref_logprobs=torch.cat(references), scores=raw - self.missing_eos_penalty * ~ended
        )

    @torch.no_grad()
    def recompute(self, rollout: Rollout, minibatches: Sequence[Tensor]) -> Rollout:
        """Fills in log-probs and values, by the forwards of the first pass over `minibatches` themselves, so
        that ρ is 1 to the last bit at its first step."""
        assert self.network is not None
        network = self.network
        shares = [part for rows in minibatches for part in self.share(rows)]
        parts = [rollout.select(rows).joined() for rows in shares]
        policy = self.logprobs(network.actor, parts)
        with self.sharding.unsharded(network.critic):
            baselines = [values(network.critic, part, self.max_new_tokens) for part in parts]
        order = self._gathered(torch.cat(shares)).argsort()
        old_values = self._gathered(torch.cat(baselines))[order]
        return rollout._replace(
            logprobs=self._gathered(torch.cat(policy))[order], values=old_values * rollout.response_mask
        )

    @torch.no_grad()
    def logprobs(self, network: LanguageModel, rows: Sequence[Sequences]) -> list[Tensor]:
        """(B, R) log-probs of the responses by one of the language models."""
        with self.sharding.unsharded(network):
            return [logprobs(network, part, self.max_new_tokens, self.temperature) for part in rows]

    def share(self, rows: Tensor) -> tuple[Tensor, ...]:
        """This rank's rows of a minibatch, in micro-batches."""
        rows = rows.to(self.device)[self.data_rank() :: self.data_ranks()]
        return rows.split(self.micro_batch_size)

    def respond(
        self, prompt_ids: Tensor, prompt_mask: Tensor, prompt_index: Tensor, iteration: int
    ) -> Rollout:
        """What the actor says to prompts; the other fields are still empty."""
        assert self.network is not None
        noise = uniforms(self.seed, iteration, prompt_index.tolist(), self.max_new_tokens)
        response_ids, mask = generate(
            self.network.actor,
            prompt_ids,
            prompt_mask,
            max_new_tokens=self.max_new_tokens,
            stop_token_ids=self.stop_token_ids,
            pad_token_id=self.tokenizer.pad_token_id,
            vocabulary=self.data.vocabulary,
            temperature=self.temperature,
            noise=noise.to(self.device),
            any_rank=self.sharding.any_rank,
        )
        return Rollout.sampled(prompt_ids, prompt_mask, response_ids, mask)

    def gather(self, batch: Batch, rollout: Rollout) -> Rollout:
        """Every rank's samples, in the order of the prompts whatever the number of ranks."""
        index = self._gathered(batch["prompt_index"])
        return Rollout(*(self._gathered(field) for field in rollout)).select(index.argsort())

    def _gathered(self, tensor: Tensor) -> Tensor:
        if self.data_ranks() == 1:
            return tensor
        return cast(Tensor, self.all_gather(tensor, group=self.data_group)).flatten(0, 1)

    def estimate(self, rollout: Rollout) -> Rollout:
        """Fills in rewards, advantages (whitened over the iteration) and returns."""
        mask = rollout.response_mask
        kl, _ = rl.kl_estimates(rollout.logprobs, rollout.ref_logprobs)
        rewards = rl.token_rewards(rollout.scores, kl, mask, float(self.kl_coef))
        advantages, returns = rl.gae(rewards, rollout.values, mask, self.gamma, self.gae_lambda)
        return rollout._replace(rewards=rewards, advantages=rl.whiten(advantages, mask), returns=returns)

    def update(self, rollout: Rollout, rows: Tensor, first: bool) -> None:
        """One optimizer step on a minibatch, some `rows` of all samples, which every rank holds whole and
        takes its share of."""
        assert self.network is not None
        optimizer: Any = self.optimizers()  # Lightning declares a list of them too
        scheduler: Any = self.lr_schedulers()
        normalizer = rollout.response_mask[rows.to(self.device)].sum()
        parts = [rollout.select(part) for part in self.share(rows)]
        for index, part in enumerate(parts, start=1):
            network = self.sharding.microbatch(last=index == len(parts))
            new_logprobs, new_values = network(part, self.temperature)
            mask = part.response_mask
            if first:
                check_first_ratio(new_logprobs - part.logprobs, mask, self.trainer.precision)
            policy, clipped = rl.policy_loss(
                new_logprobs, part.logprobs, part.advantages, mask, self.clip_eps
            )
            value = rl.value_loss(new_values, part.values, part.returns, mask, self.value_clip_eps)
            self.manual_backward((policy + self.value_coef * value) / normalizer * self.data_ranks())
            self.update_metrics.add(new_logprobs - part.logprobs, policy, value, clipped, mask)
        norm = self.sharding.grad_norm
        self.update_metrics.add_norms(norm(self.network.actor), norm(self.network.critic))
        self.clip(optimizer, self.max_grad_norm)
        optimizer.step()
        self.end_step()
        optimizer.zero_grad()
        scheduler.step()

    def adapt_kl(self, rollout: Rollout) -> None:
        """Logs the coefficient of this iteration and adapts the next one's."""
        self.log("ppo/kl_coef", self.kl_coef.float())
        if self.kl_target is not None:
            kl, sequences = float(rollout.kl_per_sequence().mean()), len(rollout.scores)
            self.kl_coef.fill_(
                rl.adapted_kl_coef(float(self.kl_coef), kl, self.kl_target, sequences, self.kl_horizon)
            )

    def evaluate(self, batch: Batch) -> Rollout:
        """Samples with their scores and log-probs, for validation and `predict`."""
        assert self.network is not None
        rollout = self.sample(batch, EVALUATION)
        indices = torch.arange(len(rollout.scores), device=self.device)
        rows = [rollout.select(part).joined() for part in indices.split(self.rollout_batch_size)]
        return rollout._replace(logprobs=torch.cat(self.logprobs(self.network.actor, rows)))

    def on_validation_epoch_start(self) -> None:
        self.val_score, self.val_kl = MeanMetric().to(self.device), MeanMetric().to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> dict[str, Any]:
        """Gives `replies`, what `predict` would write, for callbacks that show it."""
        sampled = self.evaluate(batch)
        rollout = sampled.select(batch["rows"] >= 0)
        if len(rollout.scores):
            self.val_score.update(rollout.scores)
            self.val_kl.update(rollout.kl_per_sequence())
        return {"replies": sampled.replies(batch["rows"].tolist(), self.tokenizer, self.stop_token_ids)}

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", self.val_score.compute(), prog_bar=True)
        self.log("val/kl_per_sequence", self.val_kl.compute())

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The sampled response to each prompt, with its score: `Rollout.replies`."""
        return self.evaluate(batch).replies(batch["rows"].tolist(), self.tokenizer, self.stop_token_ids)
