"""`sweep.html`: a sweep on a page."""

from experiments.sweep.outcome import SweepResult


def write_page(result: SweepResult) -> None:
    """Writes it into the sweep's folder."""
