"""What a command starts from: a checkpoint of its stage, or one line that says what was given instead; and
where several machines meet."""

import torch
from safetensors.torch import load_file, save_file

from experiments.cli.program import main


def test_what_is_no_checkpoint_of_this_stage_is_refused_under_every_strategy(refused, tiny_stages, tmp_path):
    sft, weights = tiny_stages.out / "sft", tmp_path / "weights.ckpt"
    save_file(load_file(sft / "export" / "model.safetensors"), tmp_path / "model.safetensors")
    whole = torch.load(sft / "checkpoints" / "last.ckpt", weights_only=True)
    torch.save({"state_dict": whole["state_dict"], "stage": "sft"}, weights)
    torch.save(whole["state_dict"], tmp_path / "bare.ckpt")
    cases = {
        sft / "export": "is an export (a Hugging Face directory): give it as the model that a stage starts",
        sft: f"is a folder: give a checkpoint, such as {sft}/checkpoints/last.ckpt",
        tmp_path: "is a folder: give a .ckpt file in it",
        tmp_path / "model.safetensors": "is no complete checkpoint: it was cut off, or is something else",
        tmp_path / "bare.ckpt": "is no checkpoint of a run: it has no `state_dict`",
        weights: "holds weights alone, from which no run can go on",
        tiny_stages.out / "reward" / "checkpoints" / "last.ckpt": "is a checkpoint of stage `reward`, this",
    }
    for number, (path, reason) in enumerate(cases.items()):
        strategy = ("auto", "strategies.ddp", "strategies.fsdp", "strategies.deepspeed")[number % 4]
        options = ["--trainer.accelerator=cpu", f"--trainer.strategy={strategy}", f"--ckpt_path={path}"]
        (line,) = refused("sft", *options)
        assert line.startswith(f"trivium: ckpt_path: {path} {reason}"), line


def test_several_machines_that_cannot_find_each_other_are_refused_at_once(refused, monkeypatch):
    for name in ("MASTER_ADDR", "MASTER_PORT", "NODE_RANK"):
        monkeypatch.delenv(name, raising=False)
    options = ["--trainer.num_nodes=2", "--trainer.accelerator=cpu", "--trainer.strategy=strategies.ddp"]
    (line,) = refused("sft", *options, "--data.init_args.micro_batch_size=4")
    assert line.startswith("trivium: trainer.num_nodes is 2, but neither torchrun nor SLURM has started this")
    assert "MASTER_ADDR, MASTER_PORT, NODE_RANK are not set" in line


def test_validate_says_which_weights_it_measures(tiny_stages, capsys):
    line = [*tiny_stages.stage("sft", "validate"), "--trainer.limit_val_batches=1"]
    last = tiny_stages.out / "sft" / "checkpoints" / "last.ckpt"
    assert main(line) == 0
    told = f"weights: model.pretrained {tiny_stages.export('pretrain')}, as no --ckpt_path is given, not this"
    assert told in capsys.readouterr().out
    assert main([*line, f"--ckpt_path={last}"]) == 0
    assert f"weights: {last}\n" in capsys.readouterr().out
