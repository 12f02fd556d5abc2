"""A rank that ends well is not taken for one that was killed, however late the others hear of its end; one
that a library breaks says where it was."""

import os
import socket
import subprocess
import sys
import threading
import time
from contextlib import suppress
from pathlib import Path

from experiments.distributed.rendezvous import free_port
from tests.ranks import fork_code, torchrun

ROOT = Path(__file__).resolve().parent.parent
LATE = 3.0  # seconds: the other rank looks after every one

ENDS = """
import sys, time
from experiments.distributed.ranks import as_one_of_many, ranks

def run():
    if ranks.rank == 0:
        while not ranks.peers.ended():
            time.sleep(0.05)
        time.sleep(2)  # in which the watcher looks

sys.exit(as_one_of_many(run))
"""

BREAKS = """
import ctypes, sys
from experiments.cli import program
program._run = lambda *_: ctypes.string_at(0)
sys.exit(program.main(["fit"]))
"""


class LateStore:
    """Stands between a rank and the store: what says that it has ended arrives late."""

    def __init__(self, port: int):
        self.store = port
        self.listener = socket.create_server(("127.0.0.1", 0))
        self.port = self.listener.getsockname()[1]
        threading.Thread(target=self._accept, daemon=True).start()

    def _accept(self) -> None:
        while True:
            client, _ = self.listener.accept()
            server = socket.create_connection(("127.0.0.1", self.store))
            for ends in ((client, server), (server, client)):
                threading.Thread(target=self._pass_on, args=ends, daemon=True).start()

    @staticmethod
    def _pass_on(source: socket.socket, target: socket.socket) -> None:
        with source, target, suppress(OSError):  # the other thread closes both too
            while data := source.recv(1 << 16):
                if b"ended/1" in data:
                    time.sleep(LATE)
                target.sendall(data)


def test_a_rank_whose_end_is_heard_of_late_was_not_killed(tmp_path):
    store = free_port()
    ports = store, LateStore(store).port
    ranks = []
    for rank, port in enumerate(ports):
        env = {**os.environ, **torchrun(rank, 2, port)}
        ranks.append(fork_code(env, ENDS, (), tmp_path / f"out.{rank}", tmp_path / f"errors.{rank}"))
        if rank == 0:
            wait_for_listener(store, ranks[0])
    for rank in ranks:
        rank.join(120)
    told = "".join((tmp_path / f"errors.{rank}").read_text() for rank in (0, 1))
    assert [rank.exitcode for rank in ranks] == [0, 0], told
    assert told == ""


def wait_for_listener(port, process):
    while process.is_alive():
        try:
            socket.create_connection(("127.0.0.1", port)).close()
            return
        except OSError:
            time.sleep(0.05)


def test_a_process_that_a_library_breaks_says_where_it_was():
    done = subprocess.run(
        [sys.executable, "-c", BREAKS], cwd=ROOT, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode < 0
    assert "Fatal Python error: Segmentation fault" in done.stderr
    assert "in string_at" in done.stderr
