"""SIGTERM within a validation ends it at its next batch; the run goes on from the step before it, and
validates then."""

import os
import signal

import pytest
from lightning.pytorch.callbacks import Callback

from experiments.cli.program import main
from strategies.checkpoints.intact import newest, step_of
from tests.ranks import curve, weights

COMMON = ["--trainer.max_steps=4", "--trainer.log_every_n_steps=1", "--trainer.val_check_interval=2"]
COMMON += ["--data.init_args.global_batch_size=8", "--data.init_args.micro_batch_size=8"]
COMMON += ["--data.init_args.eval_batch_size=2", "--trainer.num_sanity_val_steps=0"]


class Strikes(Callback):
    """Sends SIGTERM before a batch of the validation after step 2; counts the batches that it sees."""

    seen = 0

    def on_validation_batch_start(self, trainer, pl_module, batch, batch_idx, dataloader_idx=0):
        Strikes.seen += 1
        if trainer.global_step == 2 and batch_idx == 1:
            os.kill(os.getpid(), signal.SIGTERM)


def test_a_validation_ends_at_its_next_batch_and_is_made_again(tiny_stages):
    line = [*tiny_stages.stage("sft"), *COMMON]
    whole, parts = (tiny_stages.out / f"validation_{name}" for name in ("whole", "ends"))
    assert main([*line, "--run", str(whole)]) == 0
    with pytest.raises(SystemExit) as ended:
        main([*line, "--run", str(parts), f"--trainer.callbacks+={__name__}.Strikes"])
    assert ended.value.code == 128 + signal.SIGTERM
    assert Strikes.seen == 2  # of 12 rows in batches of two there are six
    assert step_of(newest(parts / "checkpoints")[0]) == 2
    assert main([*line, "--run", str(parts), "--ckpt_path=newest"]) == 0
    for metric in ("train/loss", "val/loss"):
        assert curve(parts, metric) == curve(whole, metric)
    found, expected = weights(parts), weights(whole)
    assert all(found[name].equal(value) for name, value in expected.items())
