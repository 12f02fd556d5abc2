"""What counts as a number in YAML."""

import math
from typing import Any


def is_int(value: Any) -> bool:
    return isinstance(value, int) and not isinstance(value, bool)


def is_number(value: Any) -> bool:
    return is_int(value) and abs(value) < 1e308 or isinstance(value, float) and math.isfinite(value)


def text_hint(value: Any) -> str:
    """What to write where YAML takes a number for text: `1e-5` is one only with a point."""
    try:
        return f": to YAML that is text, write {float(value):.1e}" if isinstance(value, str) else ""
    except ValueError:
        return ""
