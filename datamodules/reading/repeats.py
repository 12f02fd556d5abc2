"""Files that a configuration reads more than once, by what they hold."""

from collections.abc import Mapping

from datamodules.reading.fingerprint import fingerprint
from datamodules.reading.hub import Hub
from datamodules.reading.sources import parts_of


def repeated_files(named: Mapping[str, str | list[str]]) -> list[str]:
    """A line for each file that holds what an earlier one holds: one that is listed twice, or a validation
    file among those of training.

    Args:
        named: field of the configuration → its files.

    Raises:
        UserError: one cannot be read.
    """
    lines: list[str] = []
    first: dict[str, tuple[str, str]] = {}
    for field, paths in named.items():
        for part in parts_of(paths, field):
            if isinstance(part, Hub):
                continue
            content = fingerprint(part, field)
            if content in first:
                other_field, other = first[content]
                lines.append(
                    f"{field}: {part} holds what {other} of {other_field} holds: its rows are read twice, "
                    "and a loss on rows that were trained on says nothing of others"
                )
            first.setdefault(content, (field, part))
    return lines
