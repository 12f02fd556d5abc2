"""Trains many small models side by side, one thread each, and shows how far they are."""

import multiprocessing
import os
import threading
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, wait
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

from experiments.cli.user_errors import UserError

if TYPE_CHECKING:
    from experiments.abilities.catalogue import Job
    from experiments.abilities.lexicon import Language

SECONDS = "seconds.txt"
"""in a model's folder: how long it took"""


def cores() -> int:
    """That this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def work(
    jobs: Mapping[str, Sequence["Job"]], language: "Language", workers: int, quiet: bool
) -> dict[str, float]:
    """Does all jobs that are not done, and gives the seconds of a core that each experiment took, earlier
    attempts included; models that two experiments share count for both.

    Raises:
        UserError: a model could not be trained, and why.
    """
    every = [job for of_ability in jobs.values() for job in of_ability]
    folders: dict[Path, list[Job]] = {}
    for job in every:
        folders.setdefault(job.folder, []).append(job)
    context = multiprocessing.get_context("spawn")
    bar = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn()]
    bar += [TimeElapsedColumn(), TimeRemainingColumn()]
    # a process reads these when it imports torch
    os.environ |= {"OMP_NUM_THREADS": "1", "WANDB_MODE": os.environ.get("WANDB_MODE", "disabled")}
    with (
        ProcessPoolExecutor(workers, context, initializer=end_with_parent) as pool,
        Progress(*bar, console=Console(stderr=True), disable=quiet) as progress,
    ):
        task = progress.add_task("models", total=len(folders))
        # the dearest first, so that no worker is left with a long one at the end
        dearest = sorted(folders.values(), key=lambda same: -same[0].cost)
        waiting: dict[Future, list[Job]] = {pool.submit(do, same, language): same for same in dearest}
        try:
            while waiting:
                done, _ = wait(waiting, return_when=FIRST_COMPLETED)
                for future in done:
                    job = waiting.pop(future)[0]
                    future.result()
                    progress.update(task, advance=1, description=f"{job.ability}: {job.arm}, seed {job.seed}")
        except BaseException:
            pool.shutdown(cancel_futures=True)
            raise
    return {
        name: sum(float((job.folder / SECONDS).read_text()) for job in of_ability)
        for name, of_ability in jobs.items()
    }


def end_with_parent() -> None:
    """Ends this process as soon as the one that began it is gone, however that ended: it would wait for work
    for ever. What it was at goes on from its checkpoint another time."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def watch() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()


def do(jobs: Sequence["Job"], language: "Language") -> None:
    """Trains one model and asks it what each of its experiments asks; what is done is left."""
    from experiments.abilities.arm import run
    from experiments.abilities.catalogue import made
    from experiments.atomic import write_text

    start, folder = time.perf_counter(), jobs[0].folder
    file = folder / SECONDS
    before = float(file.read_text()) if file.is_file() else 0.0
    for job in jobs:
        ability = made(job.ability, language)
        arm = next(arm for arm in ability.arms() if arm.name == job.arm)
        try:
            did = run(ability, arm, job.seed, folder)
        except SystemExit as error:
            log = folder / "log.txt"
            last = log.read_text(encoding="utf-8").strip().splitlines()[-1].removeprefix("trivium: ")
            raise UserError(f"abilities: {job.ability}, {job.arm}: {last} (all of it in {log})") from error
        if did:
            write_text(file, f"{before + time.perf_counter() - start:.1f}\n")
