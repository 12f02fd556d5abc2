"""A Python that begins warm: each of its processes is forked from one that has imported everything, which
spares seconds of a start. For tests of what such processes do, and not of how they begin."""

import atexit
import json
import multiprocessing
import os
import random
import runpy
import shlex
import signal
import socket
import sys
import threading
import traceback
from contextlib import suppress
from multiprocessing.connection import wait
from multiprocessing.reduction import DupFd
from pathlib import Path
from typing import Any

import matplotlib

from tests.ranks import SERVER

CLIENT = Path(__file__).with_name("warm_client.py")


class Descriptor:
    """A file descriptor that a forked process is given."""

    def __init__(self, number: int):
        self.number = number

    def __reduce__(self):
        return _itself, (DupFd(self.number),)


def _itself(descriptor: Any) -> Any:
    return descriptor


def serve(folder: Path) -> None:
    """Writes `python` and `trivium` into a folder, and forks a process for each that is run, as long as this
    one lives."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(folder / "socket"))
    listener.listen()
    for name, options in (("python", ""), ("trivium", "-m experiments.cli ")):
        words = [sys.executable, "-I", "-S", str(CLIENT), str(folder / "socket"), str(folder / "python")]
        (folder / name).write_text(f'#!/bin/sh\nexec {shlex.join(words)} {options}"$@"\n')
        (folder / name).chmod(0o755)
    threading.Thread(target=_accept, args=(listener,), daemon=True).start()


def _accept(listener: socket.socket) -> None:
    while True:
        connection, _ = listener.accept()
        threading.Thread(target=_look_after, args=(connection,), daemon=True).start()


def _look_after(connection: socket.socket) -> None:
    """Forks a process, and ends it if the one in front of it is ended."""
    with connection:
        size, terminal, *_ = socket.recv_fds(connection, 8, 3)
        text = b""
        while len(text) < int.from_bytes(size, "big"):
            text += connection.recv(1 << 16)
        process = SERVER.Process(target=_live, args=(json.loads(text), [Descriptor(fd) for fd in terminal]))
        process.start()
        for fd in terminal:
            os.close(fd)
        connection.sendall(process.pid.to_bytes(8, "big"))
        while process.sentinel not in wait([process.sentinel, connection]):
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.join()
        process.join()
        with suppress(BrokenPipeError):
            connection.sendall(process.exitcode.to_bytes(8, "big", signed=True))


def _live(request: dict[str, Any], terminal: list[Any]) -> None:
    """Is in a forked process what `python` with these arguments is."""
    os.setsid()
    for number, file in enumerate(terminal):
        os.dup2(file.detach(), number)
    os.environ.clear()
    os.environ.update(request["environment"])
    os.chdir(request["folder"])
    os.sched_setaffinity(0, request["cores"])
    multiprocessing.set_start_method("fork", force=True)  # of data workers: a child inherits the server's
    if "MPLBACKEND" in os.environ:  # which is read when it is imported
        matplotlib.rcParams["backend"] = os.environ["MPLBACKEND"]
    random.seed()  # each would draw the server's numbers
    sys.stdin = open(0, closefd=False)  # noqa: SIM115
    sys.executable = request["python"]
    arguments = iter(request["arguments"])
    option = next(word for word in arguments if word not in ("-u", "-B"))
    sys.argv = [option, *arguments] if option[0] != "-" or option == "-c" else ["-m", *arguments]
    code = _exit_code(option)
    threading._shutdown()  # type: ignore[attr-defined]  # as a Python that ends waits for its threads
    atexit._run_exitfuncs()
    sys.stdout.flush()
    sys.stderr.flush()
    if code < 0:
        signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _exit_code(option: str) -> int:
    """Runs `-c CODE`, `-m MODULE` or a file, as they stand in `sys.argv`."""
    paths = os.environ.get("PYTHONPATH", "").split(os.pathsep)
    try:
        if option == "-c":
            text = sys.argv.pop(1)
            sys.path[:0] = ["", *paths]
            exec(compile(text, "<string>", "exec"), {"__name__": "__main__"})
        elif option == "-m":
            module = sys.argv.pop(1)
            sys.path[:0] = [os.getcwd(), *paths]
            runpy.run_module(module, run_name="__main__", alter_sys=True)
        else:
            sys.path[:0] = [str(Path(option).parent), *paths]
            runpy.run_path(option, run_name="__main__")
    except SystemExit as end:
        if end.code is None or isinstance(end.code, int):
            return int(end.code or 0) & 0xFF
        print(end.code, file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        traceback.print_exc()
        return -signal.SIGINT
    except BaseException:
        traceback.print_exc()
        return 1
    return 0
