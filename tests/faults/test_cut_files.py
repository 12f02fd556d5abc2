"""Each file of a checkpoint cut off, emptied or deleted in turn: one line says so and names the intact one,
which `--ckpt_path newest` takes."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from experiments.commands.resume import checkpoint_errors, newest_checkpoint, step_of, tidy
from tests.faults.runs import STEPS, name_of

NOT_NEEDED = ("zero_to_fp32.py", "zero_to_torch.py")  # scripts that DeepSpeed copies into each checkpoint


def cut(file: Path) -> None:
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size // 2)


HARMS = {"cut off": cut, "emptied": lambda file: file.write_bytes(b""), "deleted": Path.unlink}


@pytest.mark.parametrize("strategy", ["one", "zero2"])
def test_a_cut_last_checkpoint_names_the_intact_one(runs, strategy, tmp_path):
    runs.undisturbed("pretrain", strategy)
    whole = runs.run(name_of("pretrain", strategy)) / "checkpoints"
    intact = Path("checkpoints") / f"step={STEPS}.ckpt"
    files = [path for path in [whole / "last.ckpt", *(whole / "last.ckpt").rglob("*")] if path.is_file()]
    assert len(files) == 1 if strategy == "one" else len(files) >= 4
    here = SingleDeviceStrategy("cpu")
    for number, file in enumerate(file for file in files if file.name not in NOT_NEEDED):
        for harm, apply in HARMS.items():
            run = tmp_path / f"{number} {harm}"
            shutil.copytree(whole, run / "checkpoints")
            last = run / "checkpoints" / "last.ckpt"
            assert checkpoint_errors("last", run, here) == []
            apply(run / "checkpoints" / file.relative_to(whole))
            (line,) = checkpoint_errors("last", run, here)
            assert line.startswith("ckpt_path: "), harm
            assert line.endswith(f"go on from {run / intact}, step {STEPS}, with `--ckpt_path newest`"), harm
            assert "\n" not in line
            assert step_of(last) is None if last.exists() else harm == "deleted"
            assert checkpoint_errors("newest", run, here) == []
            assert newest_checkpoint(run) == run / intact
            tidy(run, "newest", writes=True)  # as a run that goes on does first
            assert step_of(last) == STEPS
            assert checkpoint_errors("last", run, here) == []
            shutil.rmtree(run)


def test_where_no_checkpoint_is_complete_one_line_says_so(runs, tmp_path):
    runs.undisturbed("pretrain", "one")
    shutil.copytree(runs.run("pretrain") / "checkpoints", tmp_path / "checkpoints")
    for file in (tmp_path / "checkpoints").iterdir():
        cut(file)
    (line,) = checkpoint_errors("newest", tmp_path, SingleDeviceStrategy("cpu"))
    assert line == (
        f"ckpt_path: there is no complete checkpoint in {tmp_path}/checkpoints to go on from: leave it out"
    )
