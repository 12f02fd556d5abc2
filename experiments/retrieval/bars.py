"""A progress bar around a loop, on the error stream of a terminal only."""

from collections.abc import Iterator, Sequence
from typing import TypeVar

T = TypeVar("T")


def tracked(items: Sequence[T], doing: str) -> Iterator[T]:
    """The same items, under a bar that goes away when they are through."""
    from rich.console import Console
    from rich.progress import track

    console = Console(stderr=True)
    yield from track(items, doing, console=console, transient=True, disable=not console.is_terminal)
