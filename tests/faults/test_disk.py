"""A disk that fills up while a run saves, and a folder that cannot be written: one line, nothing
half-written, and the run goes on bit for bit once there is room."""

import ctypes
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.faults.moments import Moment, Watch, told

CAPABILITIES = 0x20080522  # the version of the system call's structures, of 64 bits


class AsAnybody(Watch):
    """A process that may not write where the permissions say so, though it is root."""

    def __call__(self) -> None:
        header = (ctypes.c_uint32 * 2)(CAPABILITIES, 0)
        assert ctypes.CDLL(None).capset(header, (ctypes.c_uint32 * 6)()) == 0
        super().__call__()


class FillsUp(Watch):
    """Another program takes the disk once two checkpoints are there, but for half of a third."""

    def _saved(self, trainer):
        super()._saved(trainer)
        if self.savings == 2:
            half = (self.run / "checkpoints" / "last.ckpt").stat().st_size // 2
            (self.run / "filler").write_bytes(bytes(shutil.disk_usage(self.run).free - half))


@pytest.mark.parametrize(("stage", "strategy", "saving"), [("sft", "one", 4), ("sft", "one", -1)])
def test_a_write_that_fails_ends_the_run_in_one_line(runs, stage, strategy, saving):
    """The third and fourth saving are at step 4, under both names of a checkpoint; −1 is the export."""
    fails_to_write(runs, stage, strategy, saving)


@pytest.mark.long
def test_a_write_of_deepspeed_that_fails_ends_the_run_in_one_line(runs):
    fails_to_write(runs, "pretrain", "zero2", 3)


def fails_to_write(runs, stage, strategy, saving):
    runs.undisturbed(stage, strategy)
    name = f"{stage}_{strategy}_full_{saving}"
    full = {0: Moment("bytes", saving, 20_000, signal=0)}
    leg = runs.start(stage, strategy, name, "full", moments=full)
    codes = leg.wait()
    assert codes == [2] * len(codes), leg.errors
    assert "Traceback" not in leg.errors
    (line,) = leg.told
    assert "cannot be written" in line
    assert "File too large" in line or strategy == "zero2"  # DeepSpeed's writer keeps the reason for itself
    if strategy == "one":  # of several ranks, those that were still writing leave it to the next run
        assert [path for path in runs.run(name).rglob("*") if path.suffix in (".part", ".old")] == []
    assert not (runs.run(name) / "export").exists()
    saved = max(told(leg.folder / "0.log", "saved"))
    assert runs.goes_on(stage, strategy, name, saved) == (0, [])


@pytest.mark.long
def test_a_full_disk_ends_the_run_in_one_line(runs):
    runs.undisturbed("sft", "one")
    run = runs.run("sft_tmpfs")
    run.mkdir()
    if subprocess.run(
        ["mount", "-t", "tmpfs", "-o", "size=16m", "tmpfs", run], capture_output=True
    ).returncode:
        pytest.skip("nothing may be mounted here")
    try:
        leg = runs.start("sft", "one", run.name, "full", watch=FillsUp)
        assert leg.wait() == [2]
        assert "Traceback" not in leg.errors
        (line,) = leg.told
        assert "cannot be written (No space left on device)" in line
        saved = max(told(leg.folder / "0.log", "saved"))
        assert saved > 0
        (run / "filler").unlink()
        assert runs.goes_on("sft", "one", run.name, saved) == (0, [])
    finally:
        subprocess.run(["umount", run], check=True)


def test_a_folder_that_cannot_be_written_is_refused_before_the_first_step(runs):
    runs.undisturbed("sft", "one")
    run = runs.run("sft_read_only")
    run.mkdir()
    run.chmod(0o555)
    leg = runs.start("sft", "one", run.name, "read_only", watch=AsAnybody)
    assert leg.wait() == [2]
    assert "Traceback" not in leg.errors
    (line,) = leg.told
    assert line.startswith("trivium: run: nothing can be written to ")
    assert "Permission denied" in line
    assert list(Path(run).iterdir()) == []
    run.chmod(0o755)
