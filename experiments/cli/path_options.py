"""Paths on a command line that the parser would read as a YAML mapping: `a: b.jsonl`."""

import json
from typing import Any

import yaml

ENDS = (".train", ".val")
"""of options that name files"""


def with_listed_paths(argv: list[str]) -> list[str]:
    """A command line in which such a path is a list of one, which can be nothing else. Mappings of sources
    stay as they are."""
    listed = list(argv)
    for place, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if not (option.startswith("--data.") and option.endswith(ENDS)):
            continue
        if equals:
            listed[place] = f"{option}={_listed(value)}"
        elif place + 1 < len(argv):
            listed[place + 1] = _listed(argv[place + 1])
    return listed


def _listed(value: str) -> str:
    try:
        loaded: Any = None if value.startswith("{") else yaml.safe_load(value)
    except yaml.YAMLError:
        return value
    is_path = isinstance(loaded, dict) and not any(isinstance(each, dict) for each in loaded.values())
    return json.dumps([value], ensure_ascii=False) if is_path else value
