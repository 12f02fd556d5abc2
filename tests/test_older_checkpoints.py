"""DeepSpeed's folders as version 0.5.0 wrote them, which are those of today without `settings`, go on."""

import torch

from tests.ranks import curve, run_ranks, zero

COMMON = ["--trainer.accelerator=cpu", "--trainer.log_every_n_steps=1", "--trainer.limit_val_batches=0"]


def test_a_deepspeed_folder_of_version_0_5_0_goes_on(stage_lines, tmp_path):
    run = tmp_path / "older"
    line = [*stage_lines(tmp_path).stage("pretrain", run=run.name), *COMMON, *zero(2, devices=1)]
    run_ranks(tmp_path / "before", [[*line, "--trainer.max_steps=2"]], ranks=1)
    files = list((run / "checkpoints").rglob("*model_states.pt"))
    assert files
    for file in files:
        content = torch.load(file, weights_only=False)
        del content["settings"]
        torch.save(content, file)
    run_ranks(tmp_path / "after", [[*line, "--trainer.max_steps=4", "--ckpt_path=newest"]], ranks=1)
    told = "".join(file.read_text() for file in (tmp_path / "after").iterdir())
    assert "the checkpoint is of a version that kept no settings" in told
    assert sorted(curve(run)) == [0, 1, 2, 3]
