"""The claims that earlier commands have tried in the same folder: a page tells them beside today's."""

import json
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

from experiments.abilities.ability import ITEMS, Bar, Finding, Headline
from experiments.abilities.arm import is_answered
from experiments.abilities.catalogue import NAMES, jobs_of, made
from experiments.abilities.lexicon import Language
from experiments.abilities.verdict import adjusted, verdict
from experiments.statistics import Estimate, Paired

REPORT = "abilities.json"


def earlier_claims(
    folder: Path, language: Language, asked: Collection[str]
) -> tuple[dict[str, dict[str, Any]], list[str]]:
    """The lines in the folder's `abilities.json` of claims that are not asked for now, each with its own
    number of seeds; and the names of those that no longer hold: their models or answers are gone, or of
    another recipe."""
    try:
        claims = json.loads((folder / REPORT).read_text(encoding="utf-8"))["claims"]
        lines = {name: claims[name] for name in NAMES if name in claims and name not in asked}
        gone = [name for name, line in lines.items() if not _holds(line, folder, language)]
    except (OSError, ValueError, LookupError, TypeError):  # none, or none that this version wrote
        return {}, []
    return {name: line for name, line in lines.items() if name not in gone}, gone


def _holds(line: Mapping[str, Any], folder: Path, language: Language) -> bool:
    finding_of(line)
    ability = made(line["ability"], language)
    arms = {arm.name: arm for arm in ability.arms()}
    jobs = jobs_of(ability, line["seeds"], folder)
    return all(is_answered(ability, arms[job.arm], job.seed, job.folder) for job in jobs)


def judged(claims: Mapping[str, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """The claims of a page in the catalogue's order, each with its verdict: the headlines' p-values are
    corrected for as many as there are."""
    findings = {name: finding_of(claims[name]) for name in NAMES if name in claims}
    p_values = adjusted(findings)
    lines = {}
    for name, finding in findings.items():
        test = {**claims[name]["test"], "p_holm": p_values[name]}
        told = {"ability": name, "verdict": verdict(finding, p_values[name])}
        lines[name] = {**told, **claims[name], **told, "test": test}
    return lines


def finding_of(line: Mapping[str, Any]) -> Finding:
    """What a line of `abilities.json` says was found."""
    test, bars = line["test"], []
    for name, bar in line["bars"].items():
        low, high = bar["interval"]
        threshold = bar["at_least"] if "at_least" in bar else bar["at_most"]
        value = Estimate(bar["value"], low, high, ITEMS)
        bars.append(Bar(name, bar["seeds"], value, threshold, "at_least" in bar))
    return Finding(Headline(test["first"], test["second"], Paired(**test["paired"])), bars, line["results"])
