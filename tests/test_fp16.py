"""fp16 with a gradient scaler, as Lightning makes it of `16-mixed` on a GPU: what would clip scaled gradients
is refused, what trains clips the gradients themselves."""

import lightning as L
import pytest
import torch
from lightning.pytorch.plugins.precision import MixedPrecision

from datamodules import InstructionData, PromptData
from modules import PPOModule, SFTModule


def fit(model, data, steps, scaled=True, **options) -> L.Trainer:
    scaler = torch.amp.GradScaler("cpu", init_scale=2.0**10)
    plugins = [MixedPrecision("16-mixed", "cpu", scaler=scaler)] if scaled else None
    quiet = {"logger": False, "enable_checkpointing": False, "enable_progress_bar": False}
    trainer = L.Trainer(accelerator="cpu", plugins=plugins, max_steps=steps, **quiet, **options)
    trainer.fit(model, datamodule=data)
    return trainer


def instructions(stages):
    return InstructionData(str(stages.files / "instructions.train.jsonl"), stages.export("sft"))


def test_a_fused_optimizer_is_refused(tiny_stages):
    with pytest.raises(ValueError, match="model.optimizer.init_args.fused: false"):
        fit(SFTModule(tiny_stages.export("sft"), warmup_steps=1), instructions(tiny_stages), 2)


def test_ppo_is_refused(tiny_stages):
    model = PPOModule(
        tiny_stages.export("sft"), tiny_stages.export("reward"), max_new_tokens=4, warmup_steps=1
    )
    data = PromptData(str(tiny_stages.files / "prompts.train.jsonl"), tiny_stages.export("sft"))
    with pytest.raises(ValueError, match="give bf16-mixed, or the strategy `strategies.deepspeed`"):
        fit(model, data, 16)


def test_the_norm_is_of_unscaled_gradients(tiny_stages):
    """In fp32 the first norm is the same but for fp16's rounding, of one in a thousand; scaled, it would be a
    thousand times larger."""
    norms = []
    for scaled in (True, False):
        model = SFTModule(
            tiny_stages.export("sft"),
            optimizer=lambda p: torch.optim.SGD(p, lr=1e-3),
            warmup_steps=0,
        )
        trainer = fit(model, instructions(tiny_stages), 1, scaled, gradient_clip_val=0.01)
        norms.append(float(trainer.callback_metrics["train/grad_norm"]))
    assert norms[0] == pytest.approx(norms[1], rel=2e-2)
    assert norms[1] > 0.01
