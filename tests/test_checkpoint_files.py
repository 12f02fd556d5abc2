"""Checkpoints on disk: written beside their place and renamed, told when they are damaged, replaced by the
newest whole one; and an earlier run's results, which stay until the next has begun."""

import json
import os
import resource
import shutil
import signal
import zipfile

import pytest
import torch
from deepspeed.runtime.fp16.loss_scaler import LossScaler
from deepspeed.runtime.zero.config import ZeroStageEnum

from experiments.cli.program import main
from experiments.commands.overwriting import put_back
from strategies.atomic import finish_interrupted_save, part_of, remove_interrupted
from strategies.checkpoints.checkpoint import AnyCheckpoint
from strategies.checkpoints.intact import checkpoints, damage, newest
from strategies.checkpoints.mapped import mapped_file
from strategies.errors import UserError

STATE = {"state_dict": {"weight": torch.arange(5000.0)}, "global_step": 3, "loops": {}}


def written(folder, name="last.ckpt", step=3):
    path = folder / name
    AnyCheckpoint().save_checkpoint({**STATE, "global_step": step}, path)
    return path


def cut(path):
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])


def emptied(path):
    path.write_bytes(b"")


def zeroed(path):
    """A page of zeros in the weights, as after a power failure; the end of the file is there."""
    with zipfile.ZipFile(path) as records:
        start = max(records.infolist(), key=lambda record: record.file_size).header_offset
    data = bytearray(path.read_bytes())
    data[start + 8192 : start + 12288] = bytes(4096)
    path.write_bytes(data)


def no_file_of_torch(path):
    path.write_text("weights")


DAMAGES = [cut, emptied, zeroed, no_file_of_torch]


def test_a_save_cut_off_between_its_renames_leaves_the_checkpoint_before_it(tmp_path):
    (tmp_path / "last.ckpt.old").mkdir()
    (tmp_path / "last.ckpt.part").mkdir()
    finish_interrupted_save(tmp_path)
    remove_interrupted(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["last.ckpt"]


def test_a_finished_save_is_never_replaced_by_the_one_before(tmp_path):
    for name in ("last.ckpt", "last.ckpt.old"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "who").write_text(name)
    finish_interrupted_save(tmp_path)
    remove_interrupted(tmp_path)
    assert (tmp_path / "last.ckpt" / "who").read_text() == "last.ckpt"
    assert not (tmp_path / "last.ckpt.old").exists()


def test_a_save_writes_beside_its_place_and_nowhere_else(tmp_path, monkeypatch):
    """Where there is no folder for temporary files at all, and what was there before is open elsewhere."""
    monkeypatch.setenv("TMPDIR", str(tmp_path / "nowhere"))
    path = written(tmp_path, step=1)
    with path.open("rb") as before:
        size = path.stat().st_size
        written(tmp_path, step=2)
        assert len(before.read()) == size  # another file took its name: this one was never written over
    assert torch.load(path, weights_only=True)["global_step"] == 2
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_file_takes_the_place_of_deepspeeds_folder(tmp_path):
    (tmp_path / "last.ckpt").mkdir()
    (tmp_path / "last.ckpt" / "latest").write_text("checkpoint")
    assert damage(written(tmp_path)) is None
    assert [each.name for each in tmp_path.iterdir()] == ["last.ckpt"]


def test_a_full_disk_is_told_in_one_line_and_leaves_the_checkpoint_before(tmp_path):
    path = written(tmp_path, step=1)
    handler = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)  # the write fails instead, as on a full disk
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (9000, limits[1]))
    try:
        with pytest.raises(UserError, match=rf"^{path} cannot be written \(File too large\): make room"):
            written(tmp_path, step=2)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, handler)
    assert torch.load(path, weights_only=True)["global_step"] == 1
    assert not part_of(path).exists()


@pytest.mark.parametrize("harm", DAMAGES)
def test_a_damaged_checkpoint_is_found_and_the_newest_whole_one_named(tmp_path, harm):
    whole, last = written(tmp_path, "step=6.ckpt", 6), written(tmp_path, "last.ckpt", 8)
    written(tmp_path, "step=4.ckpt", 4)
    assert newest(tmp_path) == (last, [])
    harm(last)
    assert damage(last) is not None
    path, (told,) = newest(tmp_path) if harm is zeroed else (whole, [f"{last} "])
    assert path == whole
    assert told.startswith(f"{last} ")
    assert newest(tmp_path)[0] == whole


def test_the_newest_is_that_of_the_latest_step_whatever_it_is_called_and_however_old_its_file(tmp_path):
    """A run that was moved, as Lightning's own callback would save it, copied back in any order."""
    for name, step in (("step=10.ckpt", 10), ("last-v1.ckpt", 12), ("last.ckpt", 8), ("step=9.ckpt", 9)):
        os.utime(written(tmp_path, name, step), (1000 - step, 1000 - step))
    names = ["last-v1.ckpt", "step=10.ckpt", "step=9.ckpt", "last.ckpt"]
    assert [path.name for path in checkpoints(tmp_path)] == names


class Pickled:
    """Is written as what a call would give."""

    def __init__(self, *call):
        self.call = call

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("stage", ["disabled", "optimizer_states", "gradients", "weights"])
def test_deepspeeds_stage_is_read_as_every_python_writes_it(tmp_path, stage):
    """By number, or by name: Python 3.11.2 writes enumerations so, 3.11.7 does not."""
    number = ZeroStageEnum[stage].value
    ways = [Pickled(ZeroStageEnum, (number,)), Pickled(getattr, (ZeroStageEnum, stage))]
    torch.save({"stages": ways}, tmp_path / "optim_states.pt")
    assert mapped_file(tmp_path / "optim_states.pt") == {"stages": [number, number]}


@pytest.mark.parametrize(
    "call",
    [(ZeroStageEnum, "mro"), (ZeroStageEnum, "__init__"), (LossScaler, "backward"), (dict, "fromkeys")],
)
def test_no_other_attribute_is_looked_up_for_a_checkpoint(tmp_path, call):
    torch.save({"stage": Pickled(getattr, call)}, tmp_path / "optim_states.pt")
    with pytest.raises(UserError, match="could run code when it is read"):
        mapped_file(tmp_path / "optim_states.pt")


@pytest.fixture(scope="module")
def run(tiny_stages):
    """A run of four steps, saved at every second one; and its options but those of saving."""
    line = [*tiny_stages.stage("sft", run="files"), "--trainer.max_steps=4", "--trainer.limit_val_batches=0"]
    every = {"dirpath": f"{tiny_stages.out}/files/checkpoints", "filename": "{step}", "save_last": True}
    every |= {"every_n_train_steps": 2, "save_top_k": -1, "enable_version_counter": False}
    form = {"class_path": "experiments.callbacks.checkpoints.StepCheckpoint", "init_args": every}
    saving = f"--trainer.callbacks+={json.dumps(form)}"
    assert main([*line, saving]) == 0
    return tiny_stages.out / "files", line


@pytest.fixture
def copy(run, tmp_path):
    folder = tmp_path / "moved"
    shutil.copytree(run[0], folder)
    return folder, [*run[1], "--run", str(folder)]


def trivium(line, capsys):
    capsys.readouterr()
    code = main(line)
    told = capsys.readouterr()
    return code, [text for text in told.err.splitlines() if text.startswith("trivium: ")], told.out


@pytest.mark.parametrize("harm", [cut, zeroed])
def test_a_run_goes_on_from_the_newest_whole_checkpoint(copy, capsys, harm):
    folder, line = copy
    line = [*line, "--trainer.max_steps=5"]
    for name in ("last.ckpt", "step=4.ckpt"):
        harm(folder / "checkpoints" / name)
    for given in ("last", str(folder / "checkpoints/last.ckpt")):
        code, (told,), _ = trivium([*line, f"--ckpt_path={given}"], capsys)
        assert code == 2
        assert told.startswith(
            f"trivium: ckpt_path: {folder}/checkpoints/last.ckpt is no complete checkpoint: "
        )
        assert told.endswith(
            f"go on from {folder}/checkpoints/step=2.ckpt, step 2, with `--ckpt_path newest`"
        )
    code, (told,), _ = trivium(["export", f"{folder}/checkpoints/last.ckpt", f"{folder}/out"], capsys)
    assert code == 2
    assert told.endswith(f"the newest whole one there is {folder}/checkpoints/step=2.ckpt")
    assert trivium(["export", str(folder), f"{folder}/out"], capsys)[0] == 0
    code, _, out = trivium([*line, "--ckpt_path=newest"], capsys)
    assert code == 0
    assert f"the run goes on from {folder}/checkpoints/step=2.ckpt" in out
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 5


def test_where_none_is_whole_that_is_told(copy, capsys):
    folder, line = copy
    for path in (folder / "checkpoints").iterdir():
        cut(path)
    code, (told,), _ = trivium([*line, "--ckpt_path=newest"], capsys)
    assert code == 2
    assert told.startswith(f"trivium: ckpt_path: there is no complete checkpoint in {folder}/checkpoints ")


def test_a_moved_run_writes_its_newest_checkpoint_to_last(copy, capsys):
    folder, line = copy
    assert trivium([*line, "--trainer.max_steps=6", "--ckpt_path=last"], capsys)[0] == 0
    assert not (folder / "checkpoints/last-v1.ckpt").exists()
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_lightnings_own_callback_writes_over_last_in_a_moved_run_too(copy, capsys):
    folder, line = copy
    own = {"dirpath": str(folder / "checkpoints"), "filename": "own-{step}", "save_last": True}
    form = {"class_path": "lightning.pytorch.callbacks.ModelCheckpoint", "init_args": own}
    line = [*line, f"--trainer.callbacks+={json.dumps(form)}", "--trainer.max_steps=6", "--ckpt_path=last"]
    assert trivium(line, capsys)[0] == 0
    assert not (folder / "checkpoints/last-v1.ckpt").exists()
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 6


def test_checkpoints_of_a_users_own_callback_in_the_same_folder_are_kept(copy, capsys):
    """Named as our own one names its, of which it keeps one alone."""
    folder, line = copy
    own = {"dirpath": str(folder / "checkpoints"), "filename": "{step}", "save_top_k": -1}
    form = {
        "class_path": "lightning.pytorch.callbacks.ModelCheckpoint",
        "init_args": {**own, "every_n_train_steps": 2},
    }
    line = [*line, f"--trainer.callbacks+={json.dumps(form)}", "--trainer.max_steps=5", "--overwrite=true"]
    assert trivium(line, capsys)[0] == 0
    found = {path.name for path in (folder / "checkpoints").iterdir()}
    assert found == {"step=2.ckpt", "step=4.ckpt", "step=5.ckpt", "last.ckpt"}


def test_a_run_that_goes_on_from_an_earlier_step_puts_the_later_ones_aside(copy, capsys):
    folder, line = copy
    earlier = f"--ckpt_path={folder}/checkpoints/step=2.ckpt"
    assert trivium([*line, "--trainer.max_steps=3", earlier], capsys)[0] == 0
    assert newest(folder / "checkpoints")[0] == folder / "checkpoints/last.ckpt"
    assert torch.load(folder / "checkpoints/last.ckpt", weights_only=True)["global_step"] == 3
    assert (folder / "checkpoints/step=4.ckpt.superseded").is_file()


# --- `--overwrite`


@pytest.mark.parametrize("mistake", ["--data.init_args.train=nowhere.jsonl", "--data.init_args.max_length=3"])
def test_a_run_that_cannot_begin_leaves_the_earlier_one_as_it_was(copy, capsys, mistake):
    folder, line = copy
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()}
    code, told, _ = trivium([*line, "--overwrite=true", mistake], capsys)
    assert code == 2
    assert told
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*") if path.is_file()} == before


def test_a_run_that_begins_replaces_the_earlier_one(copy, capsys):
    folder, line = copy
    assert trivium([*line, "--overwrite=true", "--trainer.max_steps=1"], capsys)[0] == 0
    assert {path.name for path in (folder / "checkpoints").iterdir()} == {"last.ckpt", "step=1.ckpt"}
    assert not [path for path in folder.iterdir() if path.name.startswith(".")]


def test_what_a_killed_run_had_put_aside_is_put_back(tmp_path):
    (tmp_path / ".before/checkpoints").mkdir(parents=True)
    (tmp_path / ".before/checkpoints/last.ckpt").write_text("earlier")
    (tmp_path / "checkpoints").mkdir()  # of the run that was killed before its first step
    (tmp_path / "export").mkdir()
    (tmp_path / ".replaced/metrics").mkdir(parents=True)  # of one that had begun
    put_back(tmp_path)
    assert sorted(path.name for path in tmp_path.iterdir()) == ["checkpoints", "export"]
    assert (tmp_path / "checkpoints/last.ckpt").read_text() == "earlier"
