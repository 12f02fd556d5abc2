"""Stage four: PPO from a reward model, with actor, critic, reference and reward model in one
LightningModule."""

from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor, nn
from torch.optim import Optimizer
from torchmetrics import MaxMetric, MeanMetric, Metric, MinMetric

from modules import rl
from modules.backbone import LanguageModel, ScalarModel
from modules.errors import UserError
from modules.generation import generate, uniforms
from modules.hf_export import export_ppo
from modules.hf_load import load_causal_lm, load_scalar_model, read_provenance
from modules.optim import AdamW, decay_groups
from modules.ppo_checks import check_first_ratio, check_same_policy, rollout_metrics
from modules.rollout import ActorCritic, Rollout, join, logprobs, scores, values
from modules.stage import Batch, NetworkSpec, SamplingSpec, Stage

EVALUATION = 2**31  # the "iteration" whose random numbers validation and predict use


class PPOModule(Stage):
    """Proximal policy optimisation of a language model against a reward model.

    One batch is one iteration: sample a response to each of its prompts, score, estimate advantages, then
    `epochs` passes of `minibatches` optimizer steps each.

    Args:
        actor: a Hugging Face directory, usually SFT's `export/` (or PPO's, to go on or to predict).
        reward: the reward model's directory; the critic starts from it too.
        reference: what the KL is measured to; the actor's start when missing.
        optimizer: makes the one optimizer from the groups of actor and critic.
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
        max_grad_norm: one norm over actor and critic, clipped to this.
        activation_checkpointing: keep only the input of each block for the backward pass and compute the
            rest again: far less memory, about a third more time.
        seed: of the sampling.
    """

    stage: ClassVar[str] = "ppo"
    parents: ClassVar[tuple[str, ...]] = ("sft", "ppo")

    def __init__(
        self,
        actor: str,
        reward: str,
        reference: str | None = None,
        optimizer: Callable[[Iterable], Optimizer] = lambda p: AdamW(p, lr=1e-6, eps=1e-5),
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
        activation_checkpointing: bool = False,
        seed: int = 0,
    ):
        super().__init__(optimizer, warmup_steps, min_lr_ratio, activation_checkpointing)
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

    kl_coef: Tensor

    @classmethod
    def network_specs(cls, arguments: Mapping[str, Any]) -> list[NetworkSpec]:
        actor, reward = arguments["actor"], arguments["reward"]
        reference = arguments["reference"] or actor
        argument = "actor" if reference == actor else "reference"
        return [
            NetworkSpec("actor", "actor", actor, "language", True),
            NetworkSpec("critic", "reward", reward, "scalar", True),
            NetworkSpec("reference", argument, reference, "language", False),
            NetworkSpec("reward", "reward", reward, "scalar", False),
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

    def config_errors(self, max_steps: int = -1) -> list[str]:
        found = super().config_errors(max_steps)
        for name in (
            "epochs",
            "minibatches",
            "micro_batch_size",
            "rollout_batch_size",
            "max_new_tokens",
            "temperature",
        ):
            if getattr(self, name) <= 0:
                found.append(f"model.{name} is {getattr(self, name)}: give a number above 0")
        return found

    def setup(self, stage: str) -> None:
        super().setup(stage)
        prompts, ranks = self.trainer.datamodule.global_batch_size, self.data_ranks()  # type: ignore[attr-defined]
        if stage == "fit" and prompts % (self.minibatches * ranks):
            parts = self.minibatches * ranks
            raise UserError(
                f"data.global_batch_size {prompts} is not a multiple of model.minibatches {self.minibatches} "
                f"× {ranks} ranks = {parts}: every rank needs a share of every minibatch"
            )

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
            actor=LanguageModel(load_causal_lm(self.actor), fp32_head=True),
            critic=ScalarModel(load_scalar_model(self.reward), offset),
            reference=LanguageModel(load_causal_lm(self.reference), fp32_head=True),
            reward=ScalarModel(load_scalar_model(self.reward), offset),
        )
        if self._trainer is not None:
            self.check_model(network.actor.model, generated=self.max_new_tokens)
        for model in (network.actor, network.critic, network.reference, network.reward):
            self.shard(model)
        self.network = network

    def learning_rates(self) -> dict[str, float]:
        return {"model.actor_lr": self.actor_lr, "model.critic_lr": self.critic_lr}

    @property
    def updates_per_batch(self) -> int:
        """Optimizer steps of one iteration."""
        return self.epochs * self.minibatches

    def total_steps(self) -> int:
        steps = super().total_steps()
        return steps if self.trainer.max_steps > 0 else steps * self.updates_per_batch

    def configure_optimizers(self) -> Any:
        assert self.network is not None
        groups = [{**group, "lr": self.actor_lr} for group in decay_groups([self.network.actor])]
        groups += [{**group, "lr": self.critic_lr} for group in decay_groups([self.network.critic])]
        optimizer = self.optimizer(groups)
        self.check_scaler(optimizer)
        return [optimizer], [self.schedule(optimizer)]

    def forward(self, rollout: Rollout, temperature: float) -> tuple[Tensor, Tensor]:
        """Log-probs and values (B, R) of a rollout's response tokens by actor and critic."""
        assert self.network is not None
        return self.network(rollout, temperature)

    def training_step(self, batch: Batch, batch_idx: int) -> None:
        # 1 sample, 2 score, 3 estimate advantages over the samples of all ranks, 4 update
        sampled = self.sample(batch, int(batch["step"]))
        rollout = self.estimate(self.gather(batch, sampled))
        self.tokens_seen += sampled.prompt_mask.sum() + sampled.response_mask.sum()
        self.log_dict(rollout_metrics(rollout, self.tokenizer.eos_token_id, self.score_clip))
        if self.global_step == 0 and self.reference == self.actor:
            check_same_policy(rollout, self.trainer.precision)
        self.update_metrics = _update_metrics(self.device)
        generator = torch.Generator().manual_seed(hash((self.seed, int(batch["step"]))) % 2**63)
        for epoch in range(self.epochs):
            order = torch.randperm(len(rollout.scores), generator=generator).to(self.device)
            for index, rows in enumerate(order.chunk(self.minibatches)):
                self.update(rollout.select(rows), first=epoch == index == 0)
            if self.max_approx_kl and self.update_metrics["ppo/approx_kl"].compute() > self.max_approx_kl:
                break
        self.log_dict({name: metric.compute() for name, metric in self.update_metrics.items()})
        self.adapt_kl(rollout)

    @torch.no_grad()
    def sample(self, batch: Batch, iteration: int) -> Rollout:
        """Samples and scores this rank's prompts; rewards, advantages and returns are still empty.

        Of a network that was cut, no more than one at a time is whole.
        """
        assert self.network is not None
        network, width = self.network, self.max_new_tokens
        keys = ("prompt_ids", "prompt_mask", "prompt_index")
        chunks = zip(*(batch[key].split(self.rollout_batch_size) for key in keys), strict=True)
        with self.unsharded(network.actor):
            parts = [self.respond(ids, mask, index, iteration) for ids, mask, index in chunks]
        rows = [part.joined() for part in parts]
        with self.unsharded(network.reference):
            references = [logprobs(network.reference, row, width, self.temperature) for row in rows]
        with self.unsharded(network.critic):
            baselines = [values(network.critic, row, width) for row in rows]
        with self.unsharded(network.reward):
            rewards = [scores(network.reward, row) for row in rows]
        sampled = Rollout(*(torch.cat(fields) for fields in zip(*parts, strict=True)))
        ended = ((sampled.response_ids == self.tokenizer.eos_token_id) & sampled.response_mask).any(1)
        raw = torch.cat(rewards).clamp(-self.score_clip, self.score_clip)
        return sampled._replace(
            ref_logprobs=torch.cat(references),
            values=torch.cat(baselines) * sampled.response_mask,
            scores=raw - self.missing_eos_penalty * ~ended,
        )

    def respond(
        self, prompt_ids: Tensor, prompt_mask: Tensor, prompt_index: Tensor, iteration: int
    ) -> Rollout:
        """What the actor says to prompts, with its log-probs; the other fields are still empty."""
        assert self.network is not None
        tokenizer, width = self.tokenizer, self.max_new_tokens
        noise = uniforms(self.seed, iteration, prompt_index.tolist(), width).to(self.device)
        response_ids, mask = generate(
            self.network.actor,
            prompt_ids,
            prompt_mask,
            width,
            tokenizer.eos_token_id,
            tokenizer.pad_token_id,
            self.temperature,
            noise,
            self.any_rank,
        )
        rows = join(prompt_ids, prompt_mask, response_ids, mask)
        empty = torch.zeros_like(response_ids, dtype=torch.float32)
        return Rollout(
            prompt_ids=prompt_ids,
            prompt_mask=prompt_mask,
            response_ids=response_ids,
            response_mask=mask,
            logprobs=logprobs(self.network.actor, rows, width, self.temperature),
            ref_logprobs=empty,
            values=empty,
            scores=empty[:, 0],
            rewards=empty,
            advantages=empty,
            returns=empty,
        )

    def gather(self, batch: Batch, rollout: Rollout) -> Rollout:
        """Every rank's samples, in the order of the prompts whatever the number of ranks."""
        if self.data_ranks() == 1:
            index, fields = batch["prompt_index"], rollout
        else:
            index = self._gathered(batch["prompt_index"])
            fields = Rollout(*(self._gathered(field) for field in rollout))
        return fields.select(index.argsort())

    def _gathered(self, tensor: Tensor) -> Tensor:
        gathered = self.all_gather(tensor, group=self.data_group)
        assert isinstance(gathered, Tensor)
        return gathered.flatten(0, 1)

    def estimate(self, rollout: Rollout) -> Rollout:
        """Fills in rewards, advantages (whitened over the iteration) and returns."""
        mask = rollout.response_mask
        kl, _, _ = rl.kl_estimates(rollout.logprobs, rollout.ref_logprobs)
        rewards = rl.token_rewards(rollout.scores, kl, mask, float(self.kl_coef))
        advantages, returns = rl.gae(rewards, rollout.values, mask, self.gamma, self.gae_lambda)
        return rollout._replace(rewards=rewards, advantages=rl.whiten(advantages, mask), returns=returns)

    def update(self, minibatch: Rollout, first: bool) -> None:
        """One optimizer step on a minibatch that every rank holds whole and takes its share of."""
        assert self.network is not None
        optimizer, scheduler = self.optimizers(), self.lr_schedulers()
        normalizer = minibatch.response_mask.sum()
        share = torch.arange(self.data_rank(), len(minibatch.scores), self.data_ranks(), device=self.device)
        parts = [minibatch.select(rows) for rows in share.split(self.micro_batch_size)]
        for index, part in enumerate(parts, start=1):
            network = self.microbatch(last=index == len(parts))
            new_logprobs, new_values = network(part, self.temperature)
            mask = part.response_mask
            if first:
                check_first_ratio(new_logprobs - part.logprobs, mask, self.trainer.precision)
            policy, clipped = rl.policy_loss(
                new_logprobs, part.logprobs, part.advantages, mask, self.clip_eps
            )
            value = rl.value_loss(new_values, part.values, part.returns, mask, self.value_clip_eps)
            self.manual_backward((policy + self.value_coef * value) / normalizer * self.data_ranks())
            self.track(new_logprobs - part.logprobs, policy, value, clipped, mask)
        for name in ("actor", "critic"):
            self.update_metrics[f"ppo/grad_norm_{name}"].update(self.grad_norm(getattr(self.network, name)))
        if not self.clips_gradients:
            self.clip_norm(optimizer, self.max_grad_norm)  # type: ignore[arg-type]
        optimizer.step()  # type: ignore[union-attr]
        optimizer.zero_grad()  # type: ignore[union-attr]
        scheduler.step()  # type: ignore[union-attr, call-arg]

    @torch.no_grad()
    def track(self, log_ratio: Tensor, policy: Tensor, value: Tensor, clipped: Tensor, mask: Tensor) -> None:
        """Adds one forward's sums to the metrics of this iteration's updates."""
        tokens, ratio = mask.sum(), log_ratio[mask].exp()
        for name, total in {
            "ppo/policy_loss": policy,
            "ppo/value_loss": value,
            "ppo/clip_fraction": clipped.sum(),
            "ppo/approx_kl": (ratio - 1 - log_ratio[mask]).sum(),
            "ppo/ratio_mean": ratio.sum(),
        }.items():
            self.update_metrics[name].update(total / tokens, tokens)
        self.update_metrics["ppo/ratio_min"].update(ratio)
        self.update_metrics["ppo/ratio_max"].update(ratio)

    def adapt_kl(self, rollout: Rollout) -> None:
        """Logs the coefficient of this iteration and adapts the next one's."""
        self.log("ppo/kl_coef", self.kl_coef.float())
        if self.kl_target is not None:
            kl = float(((rollout.logprobs - rollout.ref_logprobs) * rollout.response_mask).sum(1).mean())
            self.kl_coef.fill_(
                rl.adapted_kl_coef(
                    float(self.kl_coef), kl, self.kl_target, len(rollout.scores), self.kl_horizon
                )
            )

    def on_validation_epoch_start(self) -> None:
        self.val_score, self.val_kl = MeanMetric().to(self.device), MeanMetric().to(self.device)

    def validation_step(self, batch: Batch, batch_idx: int) -> None:
        rollout = self.sample(batch, EVALUATION).select(batch["rows"] >= 0)
        if len(rollout.scores):
            self.val_score.update(rollout.scores)
            self.val_kl.update(((rollout.logprobs - rollout.ref_logprobs) * rollout.response_mask).sum(1))

    def on_validation_epoch_end(self) -> None:
        self.log("val/score", self.val_score.compute(), prog_bar=True)
        self.log("val/kl_per_sequence", self.val_kl.compute())

    def predict_step(self, batch: Batch, batch_idx: int) -> list[dict[str, Any]]:
        """The sampled response to each prompt, its score, its KL in nats, and whether it ended by itself."""
        rollout, tokenizer = self.sample(batch, EVALUATION), self.tokenizer
        kl = ((rollout.logprobs - rollout.ref_logprobs) * rollout.response_mask).sum(1)
        ids = [row[kept] for row, kept in zip(rollout.response_ids, rollout.response_mask, strict=True)]
        return [
            {
                "row": row,
                "response": tokenizer.decode(ids[i], skip_special_tokens=True),
                "score": float(rollout.scores[i]),
                "kl": float(kl[i]),
                "tokens": len(ids[i]),
                "ended": bool((ids[i] == tokenizer.eos_token_id).any()),
            }
            for i, row in enumerate(batch["rows"].tolist())
            if row >= 0
        ]

    def export(self, directory: str, provenance: dict[str, Any]) -> None:
        """Writes the actor's Hugging Face directory, with the critic's inside it; every rank must ask."""
        assert self.network is not None
        actor, critic = self.network.actor.model, self.network.critic
        facts = {"reward": self.reward, **provenance}
        states = self.full_state_dict(actor), self.full_state_dict(critic.model)
        if self.writes:
            export_ppo(
                actor,
                states[0],
                critic.model,
                states[1],
                float(critic.offset),
                self.tokenizer,
                directory,
                self.actor,
                facts,
            )


def _update_metrics(device: torch.device) -> dict[str, Metric]:
    means = (
        "policy_loss",
        "value_loss",
        "clip_fraction",
        "approx_kl",
        "ratio_mean",
        "grad_norm_actor",
        "grad_norm_critic",
    )
    metrics: dict[str, Metric] = {f"ppo/{name}": MeanMetric() for name in means}
    metrics |= {"ppo/ratio_min": MinMetric(), "ppo/ratio_max": MaxMetric()}
    return {name: metric.to(device) for name, metric in metrics.items()}
