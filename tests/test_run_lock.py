"""One run at a time in a folder, on file systems with locks and without; who holds it is told."""

import errno
import fcntl
import json
import os
import subprocess
import sys

import pytest

from experiments.cli.user_errors import UserError
from experiments.commands.run_lock import locked
from tests.ranks import ROOT

HOLDS = "import sys\nfrom pathlib import Path\nfrom experiments.commands.run_lock import locked\n"
HOLDS += "with locked(Path(sys.argv[1])):\n    print('held', flush=True)\n    sys.stdin.read()\n"


@pytest.fixture
def no_locks(monkeypatch):
    """As some file systems of clusters are; none such can be mounted here."""

    def refuse(*_):
        raise OSError(errno.ENOLCK, os.strerror(errno.ENOLCK))

    monkeypatch.setattr(fcntl, "flock", refuse)


@pytest.fixture
def holder(tmp_path):
    """Another process, which holds a run's folder."""
    line = [sys.executable, "-c", HOLDS, tmp_path / "run"]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(line, env={**os.environ, "PYTHONPATH": str(ROOT)}, **pipes) as process:
        assert process.stdout.readline() == b"held\n"
        yield process
        process.kill()


def hold(folder):
    with locked(folder):
        return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("locks", [True, False])
def test_a_run_is_refused_a_folder_that_another_process_holds_until_it_ends(
    tmp_path, holder, locks, request, capsys
):
    run = tmp_path / "run"
    if not locks:
        request.getfixturevalue("no_locks")
    with pytest.raises(
        UserError, match=rf"another run is writing to {run}: process {holder.pid} on \S+, since"
    ):
        hold(run)
    holder.kill()
    holder.wait()
    assert hold(run) == [".lock"]
    assert list(run.iterdir()) == []
    told = capsys.readouterr().out
    assert ("has no locks" in told) == (not locks)


def test_a_holder_on_another_machine_is_named_with_the_file_to_remove(tmp_path, no_locks):
    there = {"process": 1, "began": 0.0, "host": "node7", "since": "2026-01-02 03:04:05 UTC"}
    (tmp_path / ".lock").write_text(json.dumps(there))
    with pytest.raises(UserError, match=r"process 1 on node7, since 2026-01-02 .*remove \S+\.lock"):
        hold(tmp_path)
    (tmp_path / ".lock").unlink()
    assert hold(tmp_path) == [".lock"]


def test_a_run_that_ends_lets_the_next_one_in_and_forgets_no_other(tmp_path):
    with locked(tmp_path / "one"):
        with pytest.raises(UserError, match="another run is writing"):
            hold(tmp_path / "one")
        assert hold(tmp_path / "two") == [".lock"]
        assert (tmp_path / "one" / ".lock").is_file()
    assert hold(tmp_path / "one") == [".lock"]
