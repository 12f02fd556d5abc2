"""What a rank tells the others of its error, and whether that is only the echo of another rank's."""

from typing import NamedTuple

import torch.distributed as dist

from experiments.cli.user_errors import REPORT, refusal_of

ECHOES = ("gloo", "nccl", "connection", "socket", "broken pipe", "peer")


class Failure(NamedTuple):
    """The first error of a run."""

    rank: int  # the one that tells it
    text: str  # lines for the user; none where there is nothing to tell, as after Ctrl-C
    code: int  # with which every rank exits


def failure_of(error: BaseException, rank: int) -> Failure:
    """What a rank tells of an exception; code 0 where it is no error."""
    if isinstance(error, KeyboardInterrupt):
        return Failure(rank, "", 1)
    if isinstance(error, SystemExit):
        code = error.code if isinstance(error.code, int) else int(error.code is not None)
        return Failure(rank, error.code if isinstance(error.code, str) else "", code)
    refusal = refusal_of(error)
    if refusal is not None:
        named = rank == 0 or refusal.startswith("rank ")
        return Failure(rank, refusal if named else f"rank {rank}: {refusal}", 2)
    line = str(error).strip().partition("\n")[0]
    return Failure(rank, f"rank {rank}: {type(error).__name__}: {line}\n{REPORT}", 1)


def is_echo(error: BaseException | None) -> bool:
    """Whether an error, or one that it came from, may be another rank's end: a connection that broke."""
    while error is not None:
        if isinstance(error, dist.DistError):
            return True
        if isinstance(error, RuntimeError | OSError) and any(word in str(error).lower() for word in ECHOES):
            return True
        error = error.__cause__ or error.__context__
    return False
