"""DeepSpeed's three stages in two CPU processes: the same training as in one process, resumed and exported.

Each ZeRO stage starts its two processes once, as torchrun would, and they go through all of its runs.
"""

import json
import os
import subprocess
import sys

import lightning as L
import pytest
import torch

import strategies
from experiments.cli.program import main
from tests.ranks import ROOT, assert_weights, curve, run_ranks, weights, zero

STEPS, SHORT, CLIP = 20, 6, 0.5
STAGES, ZERO = ("pretrain", "sft", "reward"), (1, 2, 3)
# fp32: ranks and micro-batches sum the same rows' gradients in another order, a few ulp (6e-8) of a term; a
# loss near 6 and weights below 1 then differ by some 1e-7 after 20 steps. Adam divides gradients near 0 by
# their own size, which blows the rounding up: 3e-5 is a hundredth of one update of lr 3e-3.
LOSS, WEIGHT, ADAM_WEIGHT = 2e-6, 1e-6, 3e-5
# bf16 has 8 bits: a unit roundoff of 2⁻⁹ = 2e-3 for a number. Autocast keeps norms and residuals in fp32,
# DeepSpeed computes them in bf16 as well. A loss is a mean over hundreds of tokens, whose roundings cancel;
# gradients of norm 0.5 that are off by some per cent, 6 steps of lr 0.1: 1e-2 over all weights, 1e-3 in one.
BF16_LOSS, BF16_WEIGHT = 1e-3, 1e-3
ADAMW = '{"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003, "weight_decay": 0.1}}'


def sgd(lr):
    return f'{{"class_path": "torch.optim.SGD", "init_args": {{"lr": {lr}, "fused": false}}}}'


RATE = {"pretrain": 0.3, "sft": 0.3, "reward": 0.1}  # losses fall by a tenth, and never by leaps


class Samples(L.Callback):
    """Many forwards in a row after every batch, not as many on every rank."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        inputs = [batch[key][:, :6] for key in ("input_ids", "position_ids", "document_ids")]
        with torch.no_grad(), pl_module.sharding.unsharded(pl_module.network):
            for _ in range(2 + trainer.global_rank):
                assert pl_module.network.hidden_states(*inputs).isfinite().all()


class Lines:
    """Command lines: 16 rows, so that an epoch of SFT and reward is two steps."""

    def __init__(self, stages, folder, config):
        self.stages, self.folder, self.config = stages, folder, config
        for kind in ("instructions", "preferences"):
            rows = (stages.files / f"{kind}.train.jsonl").read_text().splitlines(keepends=True)[:16]
            (folder / f"{kind}.jsonl").write_text("".join(rows))

    def __call__(self, stage, run, *more, optimizer=None, micro=2, steps=SHORT, command="fit"):
        line = self.stages.stage(stage, command, run)
        line[line.index("--run") + 1] = str(self.folder / run)
        line += ["--trainer.accelerator=cpu", f"--data.init_args.micro_batch_size={micro}"]
        line += ["--data.init_args.global_batch_size=8"]
        if command == "fit":
            line += [f"--trainer.max_steps={steps}", f"--trainer.gradient_clip_val={CLIP}"]
            line += ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]
            line += [f"--model.init_args.optimizer={optimizer or sgd(RATE[stage])}"]
            kind = {"sft": "instructions", "reward": "preferences"}.get(stage)
            line += [f"--data.init_args.train={self.folder / kind}.jsonl"] if kind else []
        if stage == "pretrain":
            line += [f"--model.init_args.config={json.dumps(self.config)}"]
        return [*line, *more]


def split(stage, level, ranks):
    """Rows of a micro-batch, so that a step is one micro-batch on each rank or four: of every stage and
    every ZeRO the one in two processes and the other in one, alternating."""
    accumulated = (4, 1)[(STAGES.index(stage) + level + ranks) % 2]
    return 8 // (ranks * accumulated)


CONSTANT = "--model.init_args.min_lr_ratio=1"
BF16 = "--trainer.precision=bf16-mixed"


@pytest.fixture(scope="module")
def lines(tiny_stages, tmp_path_factory, tiny_config):
    folder = tmp_path_factory.mktemp("deepspeed")
    return Lines(tiny_stages, folder, {**tiny_config, "tie_word_embeddings": False})


@pytest.fixture(scope="module")
def alone(lines):
    """The runs of one process. SFT's embeddings are tied, pretraining's are not."""
    for stage in STAGES:
        assert main(lines(stage, f"{stage}.1", micro=8, steps=STEPS)) == 0
    assert main(lines("pretrain", "adamw.1", CONSTANT, optimizer=ADAMW, micro=8)) == 0
    assert main(lines("pretrain", "bf16.1", BF16, optimizer=sgd(0.1), micro=8)) == 0
    assert main(lines("sft", "predict.1", "--model.init_args.max_new_tokens=6", command="predict")) == 0
    return lines.folder


@pytest.fixture(scope="module", params=ZERO)
def runs(request, lines, alone):
    """The same in two processes under one stage of ZeRO: (stage, folder of all runs)."""
    stage, strategy = request.param, zero(request.param)
    whole = {"steps": STEPS}
    todo = [
        lines(name, f"{name}.z{stage}.2", *strategy, micro=split(name, stage, 2), **whole) for name in STAGES
    ]
    adamw = {"optimizer": ADAMW}
    todo += [lines("pretrain", f"adamw.z{stage}", CONSTANT, *strategy, **adamw)]
    half = ["--trainer.max_steps=3"]
    todo += [lines("pretrain", f"resumed.z{stage}", CONSTANT, *strategy, *half, **adamw)]
    more = ["--ckpt_path=last"]
    todo += [lines("pretrain", f"resumed.z{stage}", CONSTANT, *strategy, *more, **adamw)]
    todo += [lines("pretrain", f"bf16.z{stage}", BF16, *strategy, optimizer=sgd(0.1))]
    samples = ['--trainer.callbacks+={"class_path": "tests.test_deepspeed.Samples"}']
    samples += strategy
    todo += [lines("sft", f"samples.z{stage}", *samples, micro=split("sft", stage, 2), **whole)]
    tokens = "--model.init_args.max_new_tokens=6"
    todo += [lines("sft", f"predict.z{stage}", *strategy, tokens, command="predict")]
    run_ranks(lines.folder / f"z{stage}", todo)
    return stage, lines.folder


@pytest.fixture(scope="module")
def one_rank(lines, alone):
    """Every stage under every ZeRO in one process: the folder of all runs."""
    todo = []
    for level in ZERO:
        for name in STAGES:
            options = {"micro": split(name, level, 1), "steps": STEPS}
            todo.append(lines(name, f"{name}.z{level}.1", *zero(level, devices=1), **options))
    run_ranks(lines.folder / "one_rank", todo, ranks=1)
    return lines.folder


def tokens_of(run):
    return json.loads((run / "export/provenance.json").read_text())["tokens"]


def assert_same_training(folder, stage, run):
    """Losses, norms, schedule, weights and tokens of a run are those of one process without DeepSpeed."""
    one, other = folder / f"{stage}.1", folder / run
    assert len(curve(one)) == STEPS
    assert curve(other) == pytest.approx(curve(one), rel=LOSS)
    # DeepSpeed's Adam rounds otherwise, and twenty steps add that up: 1.2e-5 was seen
    assert curve(other, "train/grad_norm") == pytest.approx(curve(one, "train/grad_norm"), rel=3e-5)
    assert curve(other, "train/learning_rate") == curve(one, "train/learning_rate")
    assert_weights(weights(other), weights(one), WEIGHT)
    assert tokens_of(other) == tokens_of(one) > 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_zero_in_two_processes_trains_as_one_process_does(runs, stage):
    level, folder = runs
    assert_same_training(folder, stage, f"{stage}.z{level}.2")


@pytest.mark.slow
@pytest.mark.parametrize("level", ZERO)
@pytest.mark.parametrize("stage", STAGES)
def test_zero_in_one_process_trains_as_without_it(one_rank, stage, level):
    assert_same_training(one_rank, stage, f"{stage}.z{level}.1")


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_runs_that_are_compared_learn(alone, stage):
    losses = list(curve(alone / f"{stage}.1").values())
    assert sum(losses[-3:]) < 0.9 * sum(losses[:3])


@pytest.mark.slow
def test_the_clip_bites(alone):
    for stage in ("pretrain", "sft"):
        assert min(curve(alone / f"{stage}.1", "train/grad_norm").values()) > CLIP


@pytest.mark.slow
def test_adamw_with_weight_decay_trains_as_in_one_process(runs):
    level, folder = runs
    one, two = folder / "adamw.1", folder / f"adamw.z{level}"
    assert curve(two) == pytest.approx(curve(one), rel=LOSS)
    assert_weights(weights(two), weights(one), ADAM_WEIGHT)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(runs):
    level, folder = runs
    whole, resumed = folder / f"adamw.z{level}", folder / f"resumed.z{level}"
    assert curve(resumed) == curve(whole)
    assert list(curve(resumed, version=1)) == list(curve(whole))[3:]
    assert_weights(weights(resumed), weights(whole), 0)
    assert tokens_of(resumed) == tokens_of(whole)
    assert {path.name for path in (resumed / "checkpoints").iterdir()} == {"last.ckpt", "step=6.ckpt"}


@pytest.mark.slow
def test_bf16_stays_near_autocast_and_exports_fp32_weights(runs):
    level, folder = runs
    one, two = folder / "bf16.1", folder / f"bf16.z{level}"
    assert curve(two) == pytest.approx(curve(one), rel=BF16_LOSS)
    assert_weights(weights(two), weights(one), BF16_WEIGHT)
    for value in weights(two).values():
        assert not torch.equal(value, value.bfloat16().float())


@pytest.mark.slow
def test_forwards_between_steps_leave_training_as_it_is(runs):
    level, folder = runs
    plain, sampled = folder / f"sft.z{level}.2", folder / f"samples.z{level}"
    assert curve(sampled) == curve(plain)
    assert_weights(weights(sampled), weights(plain), 0)


@pytest.mark.slow
def test_replies_are_those_of_one_process(runs):
    level, folder = runs
    one, two = (
        (folder / run / "predictions.jsonl").read_text() for run in ("predict.1", f"predict.z{level}")
    )
    assert one == two
    assert one


def as_a_user(line):
    """Lightning starts the second process itself."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "experiments.cli", *line, "--trainer.devices=2"]
    return subprocess.run(line, capture_output=True, text=True, timeout=600, cwd=ROOT, env=env, check=False)


@pytest.mark.slow
def test_its_name_alone_is_a_strategy(lines, alone, warm_python):
    done = as_a_user(lines("sft", "named", "--trainer.strategy=strategies.deepspeed", steps=STEPS))
    assert done.returncode == 0, done.stderr[-3000:]
    assert curve(lines.folder / "named") == pytest.approx(curve(alone / "sft.1"), rel=LOSS)


def test_deepspeed_says_nothing_of_a_gpu_that_is_not_there():
    code = "import sys, strategies; strategies.deepspeed(); assert 'deepspeed.runtime.engine' in sys.modules"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"offload": "parameters"}, "offload is `parameters`, but stage 2"),
        ({"nvme_path": "/fast"}, "nvme_path is /fast"),
        ({"nvme_path": "/fast", "offload": "optimizer"}, "nvme_path is /fast"),
        ({"bucket_megabytes": 0}, "bucket_megabytes is 0"),
    ],
)
def test_what_deepspeed_does_not_have_is_refused(options, message):
    with pytest.raises(ValueError, match=message):
        strategies.deepspeed(**options)
