"""Where ranks meet."""

import random
import socket

BELOW_CONNECTIONS = range(15_000, 32_000)  # the system gives connections higher ports


def free_port() -> int:
    """A port of this machine that no connection takes before it is opened, as one that the system names would
    be taken sometimes.

    Raises:
        OSError: there is none.
    """
    for port in random.SystemRandom().sample(BELOW_CONNECTIONS, 100):
        with socket.socket() as candidate:
            if candidate.connect_ex(("127.0.0.1", port)) != 0:
                return port
    raise OSError(
        f"no port of this machine is free between {BELOW_CONNECTIONS[0]} and {BELOW_CONNECTIONS[-1]}"
    )
