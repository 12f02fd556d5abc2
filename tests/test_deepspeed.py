"""DeepSpeed's three stages in two CPU processes: the same training as in one process, resumed and exported.

Each ZeRO stage starts its two processes once, as torchrun would, and they go through all of its runs.
"""

import csv
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import lightning as L
import pytest
import torch
from safetensors.torch import load_file

import strategies
from experiments.cli import main

ROOT = Path(__file__).resolve().parent.parent
STEPS, CLIP = 6, 0.5
STAGES, ZERO = ("pretrain", "sft", "reward"), (1, 2, 3)
# fp32: ranks and micro-batches sum the same rows' gradients in another order, a few ulp (6e-8) of a term; a
# loss near 6 and weights below 1 then differ by some 1e-7 after 6 steps. Adam divides gradients near 0 by
# their own size, which blows the rounding up: 3e-5 is a hundredth of one update of lr 3e-3.
LOSS, WEIGHT, ADAM_WEIGHT = 2e-6, 1e-6, 3e-5
# bf16 has 8 bits: a unit roundoff of 2⁻⁹ = 2e-3 for a number. Autocast keeps norms and residuals in fp32,
# DeepSpeed computes them in bf16 as well. A loss is a mean over hundreds of tokens, whose roundings cancel;
# gradients of norm 0.5 that are off by some per cent, 6 steps of lr 0.1: 1e-2 over all weights, 1e-3 in one.
BF16_LOSS, BF16_WEIGHT = 1e-3, 1e-3
SGD = '{"class_path": "torch.optim.SGD", "init_args": {"lr": 0.1, "fused": false}}'
ADAMW = '{"class_path": "torch.optim.AdamW", "init_args": {"lr": 0.003, "weight_decay": 0.1}}'

WORKER = """
import json, sys
from experiments.cli import main
for line, code in json.load(open(sys.argv[1])):
    print("RUN", line[line.index("--run") + 1], file=sys.stderr, flush=True)
    if main(line) != code:
        sys.exit(1)
"""


def two_processes(folder, runs):
    """Both ranks go through command lines with their exit codes; gives rank 0's errors."""
    (folder / "runs.json").write_text(json.dumps(runs))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    line = [sys.executable, "-c", WORKER, str(folder / "runs.json")]
    ranks = []
    for rank in ("0", "1"):
        torchrun = {"RANK": rank, "LOCAL_RANK": rank, "GROUP_RANK": "0", "TORCHELASTIC_RUN_ID": "none"}
        torchrun |= {"WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2"}
        torchrun |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
        env = {**os.environ, **torchrun, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(ROOT)}
        with (folder / f"errors.{rank}").open("w") as errors:
            ranks.append(subprocess.Popen(line, cwd=ROOT, env=env, stdout=subprocess.DEVNULL, stderr=errors))
    end = time.monotonic() + 200
    while any(rank.poll() is None for rank in ranks) and time.monotonic() < end:
        if any(rank.poll() for rank in ranks):
            break
        time.sleep(0.1)
    for rank in ranks:
        rank.kill()
    errors = [(folder / f"errors.{rank}").read_text() for rank in (0, 1)]
    assert [rank.wait() for rank in ranks] == [0, 0], "\n".join(text[-3000:] for text in errors)
    return errors[0]


class Samples(L.Callback):
    """Many forwards in a row after every batch, not as many on every rank."""

    def on_train_batch_end(self, trainer, pl_module, outputs, batch, batch_idx):
        inputs = [batch[key][:, :6] for key in ("input_ids", "position_ids", "document_ids")]
        with torch.no_grad(), pl_module.gathered(pl_module.network):
            for _ in range(2 + trainer.global_rank):
                assert pl_module.network.hidden_states(*inputs).isfinite().all()


class Lines:
    """Command lines: 16 rows, so that an epoch of SFT and reward is two steps."""

    def __init__(self, stages, folder, config):
        self.stages, self.folder, self.config = stages, folder, config
        for kind in ("instructions", "preferences"):
            rows = (stages.files / f"{kind}.train.jsonl").read_text().splitlines(keepends=True)[:16]
            (folder / f"{kind}.jsonl").write_text("".join(rows))

    def __call__(self, stage, run, *more, optimizer=SGD, micro=2, command="fit"):
        line = self.stages.stage(stage, command, run)
        line[line.index("--run") + 1] = str(self.folder / run)
        line += ["--trainer.accelerator=cpu", f"--data.init_args.micro_batch_size={micro}"]
        line += ["--data.init_args.global_batch_size=8"]
        if command == "fit":
            line += [f"--trainer.max_steps={STEPS}", f"--trainer.gradient_clip_val={CLIP}"]
            line += ["--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]
            line += [f"--model.init_args.optimizer={optimizer}"]
            kind = {"sft": "instructions", "reward": "preferences"}.get(stage)
            line += [f"--data.init_args.train={self.folder / kind}.jsonl"] if kind else []
        if stage == "pretrain":
            line += [f"--model.init_args.config={json.dumps(self.config)}"]
        return [*line, *more]


def zero(stage, **more):
    """The YAML's form; parameters of any size are split."""
    options = {"stage": stage, "persistent_elements": 0, **more}
    form = {"class_path": "strategies.deepspeed", "init_args": options}
    return ["--trainer.devices=2", f"--trainer.strategy={json.dumps(form)}"]


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
        assert main(lines(stage, f"{stage}.1", micro=8)) == 0
    assert main(lines("pretrain", "adamw.1", CONSTANT, optimizer=ADAMW, micro=8)) == 0
    assert main(lines("pretrain", "bf16.1", BF16, micro=8)) == 0
    assert main(lines("sft", "predict.1", "--model.init_args.max_new_tokens=6", command="predict")) == 0
    return lines.folder


@pytest.fixture(scope="module", params=ZERO)
def runs(request, lines, alone):
    """The same in two processes under one stage of ZeRO: (stage, folder of all runs, rank 0's errors)."""
    stage, strategy = request.param, zero(request.param)
    todo = [(lines(name, f"{name}.z{stage}", *strategy), 0) for name in STAGES]
    adamw = {"optimizer": ADAMW}
    todo += [(lines("pretrain", f"adamw.z{stage}", CONSTANT, *strategy, **adamw), 0)]
    half = ["--trainer.max_steps=3"]
    todo += [(lines("pretrain", f"resumed.z{stage}", CONSTANT, *strategy, *half, **adamw), 0)]
    more = ["--ckpt_path=last"]
    todo += [(lines("pretrain", f"resumed.z{stage}", CONSTANT, *strategy, *more, **adamw), 0)]
    todo += [(lines("pretrain", f"bf16.z{stage}", BF16, *strategy), 0)]
    samples = ['--trainer.callbacks+={"class_path": "tests.test_deepspeed.Samples"}']
    todo += [(lines("sft", f"samples.z{stage}", *strategy, *samples), 0)]
    tokens = "--model.init_args.max_new_tokens=6"
    todo += [(lines("sft", f"predict.z{stage}", *strategy, tokens, command="predict"), 0)]
    folder = lines.folder / f"z{stage}"
    folder.mkdir()
    return stage, lines.folder, two_processes(folder, todo)


def curve(run, metric="train/loss", version=0):
    with (run / f"metrics/version_{version}/metrics.csv").open() as rows:
        return {int(row["step"]): float(row[metric]) for row in csv.DictReader(rows) if row.get(metric)}


def weights(run):
    return load_file(run / "export" / "model.safetensors")


def assert_weights(found, expected, atol):
    assert found.keys() == expected.keys()
    for name, value in expected.items():
        assert found[name].dtype == torch.float32
        torch.testing.assert_close(found[name], value, atol=atol, rtol=0, msg=lambda m, n=name: f"{n}: {m}")


def tokens_of(run):
    return json.loads((run / "export/provenance.json").read_text())["tokens"]


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_zero_trains_as_one_process_does(runs, stage):
    """Two ranks × two micro-batches of 2 rows against one of 8: losses, norms, schedule, weights, tokens."""
    level, folder, _ = runs
    one, two = folder / f"{stage}.1", folder / f"{stage}.z{level}"
    assert len(curve(one)) == STEPS
    assert curve(two) == pytest.approx(curve(one), rel=LOSS)
    assert curve(two, "train/grad_norm") == pytest.approx(curve(one, "train/grad_norm"), rel=1e-5)
    assert curve(two, "train/learning_rate") == curve(one, "train/learning_rate")
    assert_weights(weights(two), weights(one), WEIGHT)
    assert tokens_of(two) == tokens_of(one) > 0


@pytest.mark.slow
@pytest.mark.parametrize("stage", STAGES)
def test_the_runs_that_are_compared_learn(alone, stage):
    losses = list(curve(alone / f"{stage}.1").values())
    assert sum(losses[-2:]) < sum(losses[:2])


@pytest.mark.slow
def test_the_clip_bites(alone):
    for stage in ("pretrain", "sft"):
        assert min(curve(alone / f"{stage}.1", "train/grad_norm").values()) > CLIP


@pytest.mark.slow
def test_adamw_with_weight_decay_trains_as_in_one_process(runs):
    level, folder, _ = runs
    one, two = folder / "adamw.1", folder / f"adamw.z{level}"
    assert curve(two) == pytest.approx(curve(one), rel=LOSS)
    assert_weights(weights(two), weights(one), ADAM_WEIGHT)


@pytest.mark.slow
def test_a_resumed_run_equals_an_uninterrupted_one_bit_for_bit(runs):
    level, folder, _ = runs
    whole, resumed = folder / f"adamw.z{level}", folder / f"resumed.z{level}"
    assert curve(resumed) | curve(resumed, version=1) == curve(whole)
    assert list(curve(resumed, version=1)) == list(curve(whole))[3:]
    assert_weights(weights(resumed), weights(whole), 0)
    assert tokens_of(resumed) == tokens_of(whole)
    assert [path.name for path in (resumed / "checkpoints").iterdir()] == ["last.ckpt"]


@pytest.mark.slow
def test_bf16_stays_near_autocast_and_exports_fp32_weights(runs):
    level, folder, _ = runs
    one, two = folder / "bf16.1", folder / f"bf16.z{level}"
    assert curve(two) == pytest.approx(curve(one), rel=BF16_LOSS)
    assert_weights(weights(two), weights(one), BF16_WEIGHT)
    for value in weights(two).values():
        assert not torch.equal(value, value.bfloat16().float())


@pytest.mark.slow
def test_forwards_between_steps_leave_training_as_it_is(runs):
    level, folder, _ = runs
    plain, sampled = folder / f"sft.z{level}", folder / f"samples.z{level}"
    assert curve(sampled) == curve(plain)
    assert_weights(weights(sampled), weights(plain), 0)


@pytest.mark.slow
def test_replies_are_those_of_one_process(runs):
    level, folder, _ = runs
    one, two = (
        (folder / run / "predictions.jsonl").read_text() for run in ("predict.1", f"predict.z{level}")
    )
    assert one == two
    assert one


def as_a_user(line):
    """Lightning starts the second process itself."""
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    line = [sys.executable, "-m", "experiments.cli", *line, "--trainer.devices=2"]
    return subprocess.run(line, capture_output=True, text=True, timeout=120, cwd=ROOT, env=env, check=False)


@pytest.mark.slow
def test_its_name_alone_is_a_strategy(lines, alone):
    done = as_a_user(lines("sft", "named", "--trainer.strategy=strategies.deepspeed"))
    assert done.returncode == 0, done.stderr[-3000:]
    assert "unable to detect" not in done.stdout  # DeepSpeed, of a GPU
    assert curve(lines.folder / "named") == pytest.approx(curve(alone / "sft.1"), rel=LOSS)


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


def test_ppo_is_refused_with_what_to_use_instead(tiny_stages):
    arguments = [*tiny_stages.stage("ppo", run="ppo_zero"), "--trainer.max_steps=8"]
    line = [sys.executable, "-m", "experiments.cli", *arguments, "--trainer.accelerator=cpu"]
    line += ["--trainer.strategy=strategies.deepspeed"]
    done = subprocess.run(line, capture_output=True, text=True, cwd=ROOT, timeout=120, check=False)
    assert done.returncode == 2
    assert "trivium: trainer.strategy: PPO does not run under DeepSpeed: use strategies.ddp" in done.stderr
