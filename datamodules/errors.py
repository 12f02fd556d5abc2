"""What this folder refuses, as an exception that the command line tells in one line."""


class UserError(ValueError):
    """A user's mistake: the text says what was found, where, and what to do instead.

    It ends a command with that line and exit code 2; every other exception is a bug and keeps its trace.
    Each of the three libraries has a class of its own, since they never import each other.
    """

    def _render_traceback_(self) -> list[str]:
        """What IPython shows of it, in a notebook: the text alone."""
        return [f"UserError: {self}"]
