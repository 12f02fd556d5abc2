"""How `trivium serve` bears many clients: `python -m experiments.benchmarks.serving DIR`.

Each client asks one request after another, streamed, and hangs up in the middle of some. Told are errors, the
wait for the first token against a lone request's (both in seconds that the server's process has computed, so
that other load is not in them), tokens a second, and the server's memory before and after.
"""

import argparse
import asyncio
import json
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import NamedTuple

import psutil

HANGS_UP = 0.3  # share of the requests
TOKENS = 24  # of a reply, at most


class Load(NamedTuple):
    """What was measured."""

    answered: int
    """requests whose reply was read to its end"""
    hung_up: int
    errors: list[str]
    tokens_per_second: float
    """of the replies that were read to the end"""
    alone: float
    """seconds of the server's processor that a lone request waits for its first token, the median of nine"""
    waits: list[float]
    """for the first token of each, in order, as multiples of `alone` × requests that were being answered"""
    rss_before: int
    """bytes of the server, once every client has been answered once"""
    rss_after: int

    @property
    def growth(self) -> float:
        """Of the memory, as a share."""
        return self.rss_after / self.rss_before - 1


@contextmanager
def server(directory: str) -> Iterator[tuple[str, psutil.Process]]:
    """A server in a process of its own: its address, and the process."""
    line = [sys.executable, "-m", "experiments.cli", "serve", f"model={directory}", "--port", "0"]
    process = subprocess.Popen(line, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        url = next((line.strip() for line in process.stdout if line.startswith("http")), None)
        assert url, f"the server ended with code {process.wait()}"
        yield url, psutil.Process(process.pid)
    finally:
        process.terminate()
        process.wait()


def processor_seconds(pid: int) -> float:
    """Seconds that a process has computed, finer than the ticks that psutil counts: what else the machine
    does is not in them."""
    return time.clock_gettime(~pid << 3 | 2)  # clock_getcpuclockid(3) of Linux, which Python does not have


class Clients:
    """Clients of a server, and what happens to them. They read what comes by themselves: fifty of a library's
    in one process would be slower than the server, and their own delay would be taken for its."""

    def __init__(self, url: str, clock: Callable[[], float]):
        self.host, port = url.removeprefix("http://").strip("/").split(":")
        self.port, self.clock = int(port), clock
        self.active = self.answered = self.hung_up = self.tokens = 0
        self.errors: list[str] = []
        self.waits: list[tuple[float, int]] = []
        """seconds to the first token, and requests that were being answered when it was asked for or came"""

    async def ask(self, rng: random.Random, may_hang_up: bool) -> None:
        """One request."""
        content = " ".join(
            rng.choice(("good", "bad", "film", "music", "story")) for _ in range(rng.randint(1, 20))
        )
        leaves = rng.randint(0, TOKENS - 4) if may_hang_up and rng.random() < HANGS_UP else None
        body = {
            "model": "model",
            "messages": [{"role": "user", "content": content}],
            "max_tokens": rng.randint(4, TOKENS),
            "temperature": rng.choice((0, 1)),
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        reader, writer = await asyncio.open_connection(self.host, self.port)
        self.active += 1
        try:
            await self._read(reader, writer, json.dumps(body).encode(), leaves)
        except (OSError, EOFError) as error:
            self.errors.append(repr(error))
        finally:
            self.active -= 1
            writer.close()

    async def _read(
        self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, body: bytes, leaves: int | None
    ) -> None:
        lines = (
            "POST /v1/chat/completions HTTP/1.1",
            f"Host: {self.host}:{self.port}",
            "Content-Type: application/json",
            f"Content-Length: {len(body)}",
            "Connection: close",
        )
        begun, active, pieces = self.clock(), self.active, 0
        writer.write("\r\n".join((*lines, "", "")).encode() + body)
        status = await reader.readline()
        if b" 200 " not in status:
            self.errors.append(f"{status.decode()} {(await reader.read()).decode()}")
            return
        ended = False
        while pieces != leaves and (line := await reader.readline()):
            ended = ended or line.startswith(b"data: [DONE]")
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line.removeprefix(b"data: "))
            if "error" in chunk:
                self.errors.append(chunk["error"]["message"])
                return
            if chunk["choices"] and "role" not in chunk["choices"][0]["delta"]:
                pieces += 1
                if pieces == 1:
                    self.waits.append((self.clock() - begun, max(active, self.active)))
            if chunk["usage"]:
                self.tokens += chunk["usage"]["completion_tokens"]
        if pieces == leaves:
            self.hung_up += 1
        elif ended:
            self.answered += 1
        else:
            self.errors.append("a stream was cut off")


async def measure(url: str, process: psutil.Process, clients: int, requests: int, seed: int) -> Load:
    """Lets the clients ask."""
    clock = partial(processor_seconds, process.pid)
    warm = Clients(url, clock)
    await asyncio.gather(*(warm.ask(random.Random(-i - 1), False) for i in range(clients)))
    lone = Clients(url, clock)
    for i in range(9):
        await lone.ask(random.Random(i), False)
    alone, before = statistics.median(wait for wait, _ in lone.waits), process.memory_info().rss
    everyone = Clients(url, clock)

    async def client(number: int) -> None:
        rng = random.Random(seed * clients + number)
        for _ in range(requests):
            await everyone.ask(rng, True)

    begun = time.perf_counter()
    await asyncio.gather(*(client(number) for number in range(clients)))
    seconds = time.perf_counter() - begun
    await everyone.ask(random.Random(0), False)  # it still answers, and those that hung up have gone
    return Load(
        everyone.answered,
        everyone.hung_up,
        warm.errors + lone.errors + everyone.errors,
        everyone.tokens / seconds,
        alone,
        sorted(wait / (alone * active) for wait, active in everyone.waits),
        before,
        process.memory_info().rss,
    )


def run(directory: str, clients: int, requests: int, seed: int = 0) -> Load:
    """Starts a server, and measures."""
    with server(directory) as (url, process):
        return asyncio.run(measure(url, process, clients, requests, seed))


def main(argv: list[str] | None = None) -> None:
    """Prints what was measured."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("directory", help="a Hugging Face directory, the smaller the better")
    parser.add_argument("--clients", type=int, default=50)
    parser.add_argument("--requests", type=int, default=20, help="of each client")
    options = parser.parse_args(argv)
    load = run(options.directory, options.clients, options.requests)
    print(f"{load.answered} answered, {load.hung_up} hung up on, {len(load.errors)} errors", *load.errors[:5])
    print(f"{load.tokens_per_second:.0f} tokens/s; first token of a lone request {1000 * load.alone:.0f} ms")
    middle, late, last = (load.waits[int(share * (len(load.waits) - 1))] for share in (0.5, 0.99, 1))
    shares = f"median {middle:.2f}, 99 % {late:.2f}, largest {last:.2f}"
    print(f"waits, as multiples of a lone one's × requests being answered: {shares}")
    before, after = load.rss_before / 2**20, load.rss_after / 2**20
    print(f"memory: {before:.0f} MiB, then {after:.0f} MiB ({load.growth:+.1%})")


if __name__ == "__main__":
    main()
