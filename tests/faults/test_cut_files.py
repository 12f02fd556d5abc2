"""Each file of a checkpoint cut off, emptied or deleted in turn: one line says so and names the intact one,
which `--ckpt_path newest` takes."""

import shutil
from pathlib import Path

import pytest
from lightning.pytorch.strategies import SingleDeviceStrategy

from experiments.commands.resume import checkpoint_errors, chosen_checkpoint, make_last
from strategies.checkpoints.intact import damage, newest, step_of
from tests.faults.runs import STEPS, name_of

NOT_NEEDED = ("zero_to_fp32.py", "zero_to_torch.py")  # scripts that DeepSpeed copies into each checkpoint


def cut(file: Path) -> None:
    with file.open("r+b") as content:
        content.truncate(file.stat().st_size // 2)


def errors(given: str, run: Path) -> list[str]:
    return checkpoint_errors(
        given, chosen_checkpoint(given, run), run, SingleDeviceStrategy("cpu"), "pretrain", True
    )


HARMS = {"cut off": cut, "emptied": lambda file: file.write_bytes(b""), "deleted": Path.unlink}


@pytest.mark.parametrize("strategy", ["one", "zero2"])
def test_a_cut_last_checkpoint_names_the_intact_one(runs, strategy, tmp_path):
    runs.undisturbed("pretrain", strategy)
    whole = runs.run(name_of("pretrain", strategy)) / "checkpoints"
    intact = Path("checkpoints") / f"step={STEPS}.ckpt"
    files = [path for path in [whole / "last.ckpt", *(whole / "last.ckpt").rglob("*")] if path.is_file()]
    assert len(files) == 1 if strategy == "one" else len(files) >= 4
    for number, file in enumerate(file for file in files if file.name not in NOT_NEEDED):
        for harm, apply in HARMS.items():
            run = tmp_path / f"{number} {harm}"
            shutil.copytree(whole, run / "checkpoints")
            last = run / "checkpoints" / "last.ckpt"
            assert errors("last", run) == []
            apply(run / "checkpoints" / file.relative_to(whole))
            (line,) = errors("last", run)
            assert line.startswith("ckpt_path: "), harm
            assert line.endswith(f"go on from {run / intact}, step {STEPS}, with `--ckpt_path newest`"), harm
            assert "\n" not in line
            assert damage(last) is not None if last.exists() else harm == "deleted"
            assert errors("newest", run) == []
            assert newest(run / "checkpoints")[0] == run / intact
            make_last(run, run / intact)  # as a run that goes on does first
            assert step_of(last) == STEPS
            assert errors("last", run) == []
            shutil.rmtree(run)


def test_where_no_checkpoint_is_complete_one_line_says_so(runs, tmp_path):
    runs.undisturbed("pretrain", "one")
    shutil.copytree(runs.run("pretrain") / "checkpoints", tmp_path / "checkpoints")
    for file in (tmp_path / "checkpoints").iterdir():
        cut(file)
    (line,) = errors("newest", tmp_path)
    assert line == (
        f"ckpt_path: there is no complete checkpoint in {tmp_path}/checkpoints to go on from: leave it out"
    )
