"""A warm Python is, to those who begin it, a Python."""

import json
import os
import signal
import subprocess
import sys
import time

import pytest


def run(*arguments, **options):
    return subprocess.run([sys.executable, *arguments], capture_output=True, text=True, **options)


@pytest.fixture(autouse=True)
def _warm(warm_python):
    pass


def test_it_has_its_own_arguments_folder_environment_and_terminal(tmp_path):
    (tmp_path / "mine.py").write_text(
        "import json, os, sys\n"
        "told = [sys.argv, os.getcwd(), os.environ['GIVEN'], input(), __name__, 'torch' in sys.modules]\n"
        "print(json.dumps(told))\n"
        "print('told', file=sys.stderr)\n"
    )
    for start in (["mine.py"], ["-m", "mine"], ["-u", "-c", (tmp_path / "mine.py").read_text()]):
        done = run(*start, "--a", "b c", cwd=tmp_path, env={**os.environ, "GIVEN": "電"}, input="a line\n")
        assert (done.returncode, done.stderr) == (0, "told\n")
        words, *others = json.loads(done.stdout)
        assert words[1:] == ["--a", "b c"]
        assert others == [str(tmp_path), "電", "a line", "__main__", True]


@pytest.mark.parametrize(
    ("code", "status", "told"),
    [
        ("raise SystemExit(3)", 3, ""),
        ("raise SystemExit('a reason')", 1, "a reason"),
        ("1 / 0", 1, "ZeroDivisionError: division by zero"),
        ("import os; os.kill(os.getpid(), 9)", -9, ""),
        ("raise KeyboardInterrupt", -2, "KeyboardInterrupt"),
        ("import atexit; atexit.register(print, 'the end')", 0, ""),
    ],
)
def test_it_ends_as_a_python_does(code, status, told):
    done = run("-c", code)
    assert done.returncode == status
    assert done.stderr.strip().splitlines()[-1:] == [told] * bool(told)
    assert ("the end" in done.stdout) == ("the end" in code)


def test_a_signal_reaches_it(tmp_path):
    code = "import signal\nsignal.signal(15, lambda *_: exit(7))\nprint('ready', flush=True)\nsignal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGTERM)
    assert process.wait() == 7


def test_it_is_killed_with_what_stands_for_it():
    code = "import os, signal\nprint(os.getpid(), flush=True)\nsignal.pause()"
    process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True)
    behind = int(process.stdout.readline())
    process.kill()
    process.wait()
    end = time.monotonic() + 60
    while os.path.exists(f"/proc/{behind}") and time.monotonic() < end:
        time.sleep(0.01)
    assert not os.path.exists(f"/proc/{behind}")
