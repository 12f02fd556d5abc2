"""PPO under DeepSpeed's three stages in two CPU processes: the iterations of one process, resumed, judged and
exported."""

import json

import pytest
import torch

from experiments.cli.program import main
from tests.ranks import assert_weights, curve, run_ranks, weights, zero

ZERO = (1, 2, 3)
STEPS, ITERATIONS, CLIP = 8, 2, 0.5  # an iteration is two passes over two minibatches
# fp32: forwards of other shapes round differently, some ulp (6e-8) of what is summed. The policy loss and the
# KL are small differences of larger numbers, hence 1e-6 of those. AdamW turns a gradient that is off by δ
# into a weight that is off by up to lr δ / eps, 1e-2 · 1e-8 / 1e-3 = 1e-7 a step. That rounding flips one of
# the ~250 tokens that a run samples has a chance of some 1e-6 for each.
LOSS, DIFFERENCE, WEIGHT = 1e-5, 1e-6, 2e-6
OPTIMIZER = {
    "class_path": "torch.optim.AdamW",
    "init_args": {"eps": 1e-3, "weight_decay": 0.1, "fused": True},
}
OPTIONS = {
    "optimizer": json.dumps(OPTIMIZER),
    "epochs": 2,
    "minibatches": 2,
    "actor_lr": 3e-3,
    "critic_lr": 1e-2,
    "max_grad_norm": CLIP,
    "kl_target": 1.0,
    "kl_horizon": 80,
}
SCHEDULE = ["--model.init_args.warmup_steps=3", "--model.init_args.min_lr_ratio=0.1"]
BF16 = "--trainer.precision=bf16-mixed"
EXPORTS = ("export", "export/critic")


class Lines:
    """Command lines: 16 prompts in an iteration, 8 in a minibatch, 4 of those on each of two ranks."""

    def __init__(self, stages, folder):
        self.stages, self.folder = stages, folder

    def __call__(self, run, *more, micro=8, command="fit"):
        line = self.stages.stage("ppo", command, run)
        line[line.index("--run") + 1] = str(self.folder / run)
        line += ["--trainer.accelerator=cpu"]
        if command == "fit":
            line += [f"--trainer.max_steps={STEPS}", "--data.init_args.global_batch_size=16"]
            line += ["--trainer.limit_val_batches=1.0", "--trainer.log_every_n_steps=1"]
            line += [f"--model.init_args.{name}={value}" for name, value in OPTIONS.items()]
            line += [f"--model.init_args.micro_batch_size={micro}"]
        if command == "validate":
            path = {"class_path": "tests.ranks.Record", "init_args": {"path": str(self.folder / run)}}
            line += [f"--trainer.callbacks+={json.dumps(path)}"]
        return [*line, *more]


@pytest.fixture(scope="module")
def lines(tiny_stages, tmp_path_factory):
    return Lines(tiny_stages, tmp_path_factory.mktemp("deepspeed_ppo"))


@pytest.fixture(scope="module")
def alone(lines):
    """The runs of one process."""
    assert main(lines("plain.1")) == 0
    assert main(lines("schedule.1", *SCHEDULE)) == 0
    for command in ("predict", "validate"):
        assert main(lines(f"{command}.1", command=command)) == 0
    return lines.folder


@pytest.fixture(scope="module")
def one_rank(lines, alone):
    """One process under each stage of ZeRO; a step is four micro-batches."""
    todo = [lines(f"plain.z{level}.1", *zero(level, devices=1), micro=2) for level in ZERO]
    run_ranks(lines.folder / "one_rank", todo, ranks=1)
    return lines.folder


@pytest.fixture(scope="module", params=ZERO)
def runs(request, lines, alone):
    """The same in two processes under one stage of ZeRO: (stage, folder of all runs).

    A step of `plain` and `offload` is four micro-batches on each rank; stage 3 samples block by block in the
    latter. One of `schedule` is one; it samples three prompts at a time, and stage 3 leaves its small
    parameters whole.
    """
    stage, strategy = request.param, zero(request.param)
    todo = [lines(f"plain.z{stage}", *strategy, micro=1)]
    todo += [lines(f"offload.z{stage}", *zero(stage, offload="optimizer", gather_to_sample=False), micro=1)]
    whole, chunks = zero(stage, persistent_elements=100_000), "--model.init_args.rollout_batch_size=3"
    todo += [lines(f"schedule.z{stage}", *whole, *SCHEDULE, chunks)]
    for more in (f"--trainer.max_steps={STEPS // 2}", "--ckpt_path=last"):
        todo += [lines(f"resumed.z{stage}", *strategy, more, micro=1)]
    todo += [lines(f"bf16.z{stage}", *strategy, BF16, micro=2)]
    todo += [lines(f"{name}.z{stage}", *strategy, command=name) for name in ("predict", "validate")]
    run_ranks(lines.folder / f"z{stage}", todo)
    return stage, lines.folder


def ppo(run, name, version=0):
    """A metric of every iteration; on resume their numbers go on."""
    return list(curve(run, f"ppo/{name}", version).values())


def assert_same_training(one, other):
    """Samples, losses, norms, validation and weights."""
    assert len(ppo(one, "score")) == ITERATIONS
    for metric in ("response_length", "eos_share", "kl_coef"):
        assert ppo(other, metric) == ppo(one, metric), metric
    names = ("score", "reward", "policy_loss", "value_loss", "kl", "approx_kl", "clip_fraction", "entropy")
    for metric in (*names, "explained_variance", "ratio_max", "grad_norm_actor", "grad_norm_critic"):
        expected = pytest.approx(ppo(one, metric), rel=LOSS, abs=DIFFERENCE)
        assert ppo(other, metric) == expected, metric
    for metric in ("val/score", "val/kl_per_sequence"):
        assert len(curve(one, metric)) == 1
        assert curve(other, metric) == pytest.approx(curve(one, metric), rel=LOSS, abs=DIFFERENCE)
    for export in EXPORTS:
        assert_weights(weights(other, export), weights(one, export), WEIGHT)


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "offload", "schedule"])
def test_ppo_under_zero_samples_and_learns_as_in_one_process(runs, name):
    level, folder = runs
    alone = "schedule.1" if name == "schedule" else "plain.1"
    assert_same_training(folder / alone, folder / f"{name}.z{level}")


@pytest.mark.slow
@pytest.mark.parametrize("level", ZERO)
def test_ppo_under_zero_in_one_process_is_ppo_without_it(one_rank, level):
    assert_same_training(one_rank / "plain.1", one_rank / f"plain.z{level}.1")


@pytest.mark.slow
def test_the_ppo_runs_that_are_compared_learn_and_are_clipped(alone):
    losses = ppo(alone / "plain.1", "value_loss")
    assert losses[-1] < 0.9 * losses[0]
    assert min(ppo(alone / "plain.1", "grad_norm_actor")) > CLIP


@pytest.mark.slow
@pytest.mark.parametrize("name", ["plain", "schedule", "resumed"])
def test_an_optimizer_step_is_one_step_of_the_schedule(runs, name):
    level, folder = runs
    files = sorted((folder / f"{name}.z{level}").glob("checkpoints/last.ckpt/*/*model_states.pt"))
    state = torch.load(files[0], weights_only=False)
    assert state["global_step"] == STEPS
    assert [schedule["last_epoch"] for schedule in state["lr_schedulers"]] == [STEPS]


@pytest.mark.slow
def test_resumed_ppo_equals_uninterrupted_ppo_bit_for_bit(runs):
    level, folder = runs
    whole, resumed = folder / f"plain.z{level}", folder / f"resumed.z{level}"
    for metric in ("score", "policy_loss", "value_loss", "grad_norm_actor", "grad_norm_critic", "kl_coef"):
        parts = [ppo(resumed, metric, version) for version in (0, 1)]
        assert [len(part) for part in parts] == [ITERATIONS // 2] * 2
        assert sum(parts, []) == ppo(whole, metric), metric
    for export in EXPORTS:
        assert_weights(weights(resumed, export), weights(whole, export), 0)


@pytest.mark.slow
def test_bf16_ppo_passes_the_doctor_and_exports_fp32_weights(runs):
    """That it ran at all says that ρ was 1 at every first update; where its samples go is up to rounding."""
    level, folder = runs
    run = folder / f"bf16.z{level}"
    assert len(ppo(run, "score")) == ITERATIONS
    assert ppo(run, "kl")[0] == 0  # the same weights in the same forward
    assert ppo(run, "kl_coef")[0] == torch.tensor(0.07).item()  # 0.0698 in bf16
    for export in EXPORTS:
        matrices = [value for value in weights(run, export).values() if value.ndim == 2]
        assert matrices
        for value in matrices:
            assert value.dtype == torch.float32
            assert not torch.equal(value, value.bfloat16().float())


@pytest.mark.slow
def test_responses_and_scores_outside_training_are_those_of_one_process(runs):
    level, folder = runs
    one, two = ((folder / f"predict.{name}" / "predictions.jsonl") for name in (1, f"z{level}"))
    rows = [[json.loads(line) for line in file.read_text().splitlines()] for file in (one, two)]
    assert len(rows[0]) == len(rows[1]) == 12
    for expected, found in zip(*rows, strict=True):
        for key in ("score", "kl"):
            assert found.pop(key) == pytest.approx(expected.pop(key), rel=LOSS, abs=DIFFERENCE)
        assert found == expected
    one, two = (json.loads((folder / f"validate.{name}").read_text()) for name in (1, f"z{level}"))
    assert two == pytest.approx(one, rel=LOSS, abs=DIFFERENCE)
    assert "val/score" in one
