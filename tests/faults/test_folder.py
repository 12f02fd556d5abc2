"""What may be wrong with a run's folder: another run in it, no right to write to it, a full disk."""

import os
import signal
import socket
from datetime import datetime

import psutil

from tests.faults.moments import Moment, told
from tests.faults.runs import Runs


def test_a_second_run_in_a_folder_is_refused_and_the_first_never_notices(runs: Runs):
    (counts,) = told(runs.undisturbed("sft", "one") / "0.log", "counts")
    stops = Moment("training", counts["training"] // 2, signal=signal.SIGSTOP)
    first = runs.start("sft", "one", "shared", "first", moments={0: stops})
    process = psutil.Process(first.processes[0].pid)
    while process.status() != psutil.STATUS_STOPPED:
        assert process.is_running(), first.errors
    for leg, more in (("second", "--overwrite=true"), ("third", "--ckpt_path=last")):
        refused = runs.start("sft", "one", "shared", leg, more)
        assert refused.wait() == [2]
        (line,) = refused.told
        assert line.startswith(
            f"trivium: run: another run is writing to {runs.run('shared')}: process {process.pid} on "
            f"{socket.gethostname()}, since {datetime.now():%Y-%m-%d} "
        )
    os.kill(process.pid, signal.SIGCONT)
    assert first.wait() == [0]
    assert runs.compare("sft", "one", "shared") == []
