"""PPO's run-time checks, its adaptive coefficient, and that it raises a simple reward."""

from itertools import islice

import lightning as L
import pytest
import torch

from datamodules import PromptData
from modules import PPOModule
from modules.ppo_checks import check_first_ratio
from modules.rollout import minibatch_order


def test_a_ratio_other_than_one_at_the_first_step_is_an_error():
    mask = torch.tensor([[True, False]])
    check_first_ratio(torch.tensor([[5e-5, 9.0]]), mask, "32-true")
    with pytest.raises(RuntimeError, match="ρ ≠ 1 before the first update"):
        check_first_ratio(torch.tensor([[2e-4, 0.0]]), mask, "32-true")
    check_first_ratio(torch.tensor([[0.01, 9.0]]), mask, "bf16-mixed")
    with pytest.raises(RuntimeError, match="temperature"):
        check_first_ratio(torch.tensor([[0.03, 0.0]]), mask, "bf16-mixed")
    with pytest.raises(RuntimeError, match="ρ ≠ 1"):
        check_first_ratio(torch.tensor([[float("nan"), 0.0]]), mask, "32-true")


def test_minibatches_are_a_function_of_seed_iteration_and_pass():
    def passes(seed, iteration):
        return [torch.cat(parts) for parts in islice(minibatch_order(seed, iteration, 32, 4), 3)]

    orders = passes(0, 1)
    assert all(sorted(order.tolist()) == list(range(32)) for order in orders)
    assert all(torch.equal(*pair) for pair in zip(orders, passes(0, 1), strict=True))
    for other in (orders[1], passes(0, 2)[0], passes(1, 1)[0]):
        assert not torch.equal(orders[0], other)
    assert [len(part) for part in next(minibatch_order(0, 0, 32, 4))] == [8] * 4


def module(tiny_stages, **options):
    settings = {"max_new_tokens": 8, "epochs": 2, "minibatches": 2, "actor_lr": 3e-3, "critic_lr": 3e-3}
    return PPOModule(tiny_stages.export("sft"), tiny_stages.export("reward"), **{**settings, **options})


def fit(tiny_stages, ppo, steps):
    data = PromptData(
        str(tiny_stages.files / "prompts.train.jsonl"), tiny_stages.export("sft"), global_batch_size=32
    )
    trainer = L.Trainer(
        max_steps=steps,
        accelerator="cpu",
        logger=False,
        enable_checkpointing=False,
        enable_progress_bar=False,
    )
    trainer.fit(ppo, datamodule=data)
    return trainer


def test_another_temperature_in_the_update_is_found_at_the_first_step(tiny_stages):
    class Wrong(PPOModule):
        def update(self, rollout, rows, first):
            self.temperature = 0.5
            super().update(rollout, rows, first)

    settings = {"max_new_tokens": 8, "epochs": 1, "minibatches": 2}
    with pytest.raises(RuntimeError, match="ρ ≠ 1"):
        fit(tiny_stages, Wrong(tiny_stages.export("sft"), tiny_stages.export("reward"), **settings), 4)


def test_the_first_step_of_an_iteration_has_a_ratio_of_exactly_one(tiny_stages):
    """Though prompts and responses differ in length, and micro-batches in size, from those of sampling."""
    gaps = []

    class Watched(PPOModule):
        def update(self, rollout, rows, first):
            if first:
                with torch.no_grad():
                    for part in map(rollout.select, self.share(rows)):
                        gaps.append((self(part, self.temperature)[0] - part.logprobs)[part.response_mask])
                        gaps.append((self(part, self.temperature)[1] - part.values)[part.response_mask])
            super().update(rollout, rows, first)

    settings = {"max_new_tokens": 8, "epochs": 1, "minibatches": 2, "micro_batch_size": 3}
    fit(tiny_stages, Watched(tiny_stages.export("sft"), tiny_stages.export("reward"), **settings), 8)
    assert sum(map(len, gaps)) > 50
    assert not torch.cat(gaps).any()


def test_another_reference_at_the_first_iteration_is_found(tiny_stages):
    class Wrong(PPOModule):
        def configure_model(self):
            super().configure_model()
            with torch.no_grad():
                self.network.reference.model.lm_head.weight.mul_(1.5)

    with pytest.raises(RuntimeError, match="KL to the reference ≠ 0"):
        fit(tiny_stages, Wrong(tiny_stages.export("sft"), tiny_stages.export("reward"), max_new_tokens=8), 16)


def test_the_score_rises_and_the_coefficient_adapts(tiny_stages):
    seen = []

    class Watched(PPOModule):
        def adapt_kl(self, rollout):
            seen.append((float(rollout.scores.mean()), float(self.kl_coef)))
            super().adapt_kl(rollout)

    settings = {"max_new_tokens": 8, "epochs": 2, "minibatches": 2, "actor_lr": 3e-3, "critic_lr": 3e-3}
    ppo = Watched(
        tiny_stages.export("sft"),
        tiny_stages.export("reward"),
        kl_coef=0.02,
        kl_target=1.0,
        kl_horizon=320,
        **settings,
    )
    fit(tiny_stages, ppo, 40)
    scores, coefficients = zip(*seen, strict=True)
    assert len(seen) == 10
    assert sum(scores[-3:]) / 3 > sum(scores[:3]) / 3
    # at the first iteration the KL is 0, below the target: 1 − 0.2 · 32 / 320
    assert coefficients[1] == pytest.approx(0.02 * 0.98, rel=1e-6)
    assert coefficients[-1] != coefficients[1]


def test_dropout_is_off_in_all_four_models_even_in_training_mode(tiny_stages):
    ppo = module(tiny_stages)
    ppo.configure_model()
    ppo.train()
    assert not any(part.training for part in ppo.network.modules())


def test_buffers_stay_exact_where_parameters_become_16_bit(tiny_stages):
    """`bf16-true`: a rounded frequency times a position of thousands would be another angle altogether."""
    module = PPOModule(actor=tiny_stages.export("sft"), reward=tiny_stages.export("reward"), kl_coef=0.07)
    module.configure_model()
    frequencies = {n: b.clone() for n, b in module.named_buffers() if n.endswith("inv_freq")}
    module.to(torch.bfloat16)
    assert {p.dtype for p in module.parameters()} == {torch.bfloat16}
    assert module.kl_coef.dtype == torch.float64
    assert float(module.kl_coef) == 0.07
    assert len(frequencies) >= 4
    for name, buffer in module.named_buffers():
        if name in frequencies:
            assert torch.equal(buffer, frequencies[name])
