"""The front of a warm Python (`warm.py`): hands its command line, environment and terminal to a process that
is forked for it, passes signals on, and ends as that one does.

`warm_client.py SOCKET PYTHON [arguments of python]`"""

import json
import os
import signal
import socket
import sys

PASSED_ON = {signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGUSR1, signal.SIGUSR2}


def pass_on(process, number):
    try:
        os.killpg(process, number)
    except ProcessLookupError:  # it has no group yet
        os.kill(process, number)


def main(path, python, *arguments):
    signal.pthread_sigmask(signal.SIG_BLOCK, PASSED_ON)  # until there is somebody to pass them on to
    server = socket.socket(socket.AF_UNIX)
    server.connect(path)
    cores = sorted(os.sched_getaffinity(0))
    request = {"arguments": arguments, "python": python, "folder": os.getcwd(), "cores": cores}
    text = json.dumps({**request, "environment": dict(os.environ)}).encode()
    socket.send_fds(server, [len(text).to_bytes(8, "big")], [0, 1, 2])
    server.sendall(text)
    process = int.from_bytes(server.recv(8), "big")
    for number in PASSED_ON:
        signal.signal(number, lambda number, _: pass_on(process, number))
    signal.pthread_sigmask(signal.SIG_UNBLOCK, PASSED_ON)
    code = int.from_bytes(server.recv(8), "big", signed=True)
    if code < 0:
        if -code != signal.SIGKILL:
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    sys.exit(code)


main(*sys.argv[1:])
