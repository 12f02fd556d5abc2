"""Paths on a command line, which the parser would read as YAML where they look like it: `a: b.jsonl` as a
mapping, `2024` as a number, `notes #3.txt` without its end."""

import json
from typing import Any

import yaml

ENDS = (".train", ".val")
"""of options that name files"""


def with_quoted_paths(argv: list[str]) -> list[str]:
    """A command line whose paths are texts to the parser, whatever they look like. Lists, mappings of sources
    and `null` stay YAML."""
    quoted = list(argv)
    for place, word in enumerate(argv):
        option, equals, value = word.partition("=")
        if not (option.startswith("--data.") and option.endswith(ENDS)):
            continue
        if equals:
            quoted[place] = f"{option}={_quoted(value)}"
        elif place + 1 < len(argv):
            quoted[place + 1] = _quoted(argv[place + 1])
    return quoted


def _quoted(value: str) -> str:
    if value[:1] in ("", "[", "{", '"', "'"):
        return value
    try:
        loaded: Any = yaml.safe_load(value)
    except yaml.YAMLError:
        loaded = ""
    if loaded is None or loaded == value:
        return value
    if isinstance(loaded, dict) and any(isinstance(source, dict) for source in loaded.values()):
        return value
    return json.dumps(value, ensure_ascii=False)
