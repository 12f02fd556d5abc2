"""What a finding says of its claim: shown, not shown, or inconclusive."""

from collections.abc import Mapping
from typing import Literal

from experiments.abilities.ability import Finding
from experiments.statistics import holm

Verdict = Literal["shown", "not shown", "inconclusive"]
LEVEL = 0.01
"""of the headline tests, after Holm's correction over those that were run"""


def adjusted(findings: Mapping[str, Finding]) -> dict[str, float]:
    """The headline tests' p-values after Holm's correction, by experiment."""
    return holm({name: finding.test.paired.p for name, finding in findings.items()})


def verdict(finding: Finding, p: float) -> Verdict:
    """Shown: the headline comparison goes the claimed way beyond chance, and every bar is met. Not shown: it
    does not, or the interval of a bar's value lies wholly on the wrong side. Else inconclusive.

    Args:
        p: of the headline test, adjusted.
    """
    paired = finding.test.paired
    goes_the_claimed_way = paired.only_first > paired.only_second and p < LEVEL
    if goes_the_claimed_way and all(bar.met for bar in finding.bars):
        return "shown"
    if not goes_the_claimed_way or any(bar.excluded for bar in finding.bars):
        return "not shown"
    return "inconclusive"
