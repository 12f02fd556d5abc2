"""The engine in a thread of its own, which alone computes: replies round by round, other work in between."""

import threading
import traceback
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any, TypeVar

from experiments.chat.engine import Engine, Request
from experiments.cli.user_errors import REPORT, refusal_of, tell

T = TypeVar("T")


class EngineThread:
    """Runs an engine while it is entered as a context."""

    def __init__(self, engine: Engine):
        self.engine = engine
        self._wakes = threading.Condition()
        self._work: deque[tuple[Future, Callable[[], Any]]] = deque()
        self._ends = False
        self._thread = threading.Thread(target=self._run, name="engine", daemon=True)

    def __enter__(self) -> "EngineThread":
        self._thread.start()
        return self

    def __exit__(self, *error: object) -> None:
        with self._wakes:
            self._ends = True
            self._wakes.notify()
        self._thread.join()

    def submit(self, requests: Sequence[Request]) -> None:
        """As `Engine.submit`."""
        self.engine.submit(requests)
        with self._wakes:
            self._wakes.notify()

    def call(self, work: Callable[[], T]) -> "Future[T]":
        """Computes something else before the next round: of many who come at once, each waits for one round,
        not for as many as there are others."""
        future: Future[T] = Future()
        with self._wakes:
            self._work.append((future, work))
            self._wakes.notify()
        return future

    def _run(self) -> None:
        while True:
            with self._wakes:
                self._wakes.wait_for(lambda: self._ends or self._work or self.engine.busy)
                if self._ends:
                    return
                todo = [self._work.popleft() for _ in range(len(self._work))]
            for future, work in todo:
                _do(future, work)
            if self.engine.busy:
                try:
                    self.engine.advance()
                except Exception as error:  # its replies have been told; others go on
                    traceback.print_exception(error)
                    tell(refusal_of(error) or REPORT)


def _do(future: Future, work: Callable[[], Any]) -> None:
    if not future.set_running_or_notify_cancel():
        return
    try:
        future.set_result(work())
    except Exception as error:
        future.set_exception(error)
