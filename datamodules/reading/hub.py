"""A dataset of the hub → its rows."""

import re
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext

import datasets
from huggingface_hub import HfApi

from datamodules.errors import UserError
from datamodules.reading.record import Record, first_line

HUB_NAME = re.compile(r"[\w.-]+(/[\w.-]+)?(\[[\w.-]+\])?")
"""of what may be a path too"""
FULL_NAME = re.compile(r"(?P<name>[\w.-]+(/[\w.-]+)?)(/(?P<config>[\w.-]+))?(\[(?P<split>[\w.-]+)\])?")
HUB_TIMEOUT = 10  # seconds


class Hub(str):
    """`NAME`, `OWNER/NAME` or `OWNER/NAME/CONFIG`, and `[SPLIT]` where it is not `train`; what else a source
    consists of are paths of files."""

    @property
    def parts(self) -> tuple[str, str | None, str]:
        """Name, config and split.

        Raises:
            UserError: it is no such name.
        """
        match = FULL_NAME.fullmatch(self)
        if not match:
            raise UserError(f"hub:{self} is no name on the hub: give hub:OWNER/NAME, /CONFIG, [SPLIT]")
        return match["name"], match["config"], match["split"] or "train"


def hub_rows(hub: Hub, name: str) -> Iterator[Record]:
    """All rows of a split; `name` is the field of the configuration, for messages.

    Raises:
        UserError: the hub cannot be reached and no copy is cached, or it breaks off.
    """
    number, rows = 0, _open(hub, name)
    try:
        for number, row in enumerate(rows, 1):
            yield Record(f"{hub}, row {number}", row, None)
    except Exception as error:  # half of the data must not pass for all of it
        raise UserError(f"{name}: {hub} broke off after row {number}: {first_line(error)}") from error


def _open(hub: Hub, name: str) -> datasets.IterableDataset | datasets.Dataset:
    """A stream where the hub can be reached, else the copy that an earlier run left in the cache."""
    revision = hub_revision(hub)
    dataset, config, split = hub.parts
    try:
        with nullcontext() if revision else _nothing_asked():
            return datasets.load_dataset(
                dataset, config, split=split, revision=revision, streaming=revision is not None
            )
    except Exception as error:  # the hub raises a dozen kinds
        if revision is not None:
            raise UserError(f"{name}: {hub} on the hub cannot be read: {first_line(error)}") from error
        raise UserError(
            f"{name}: {hub} is no file or folder here, and no dataset of that name can be reached or is "
            "cached: give a path, or run once with the hub in reach"
        ) from error


@contextmanager
def _nothing_asked() -> Iterator[None]:
    """`datasets` looks at its cache alone, instead of trying again for half a minute, with a line for each
    try, a hub that has just not answered."""
    before = datasets.config.HF_HUB_OFFLINE
    datasets.config.HF_HUB_OFFLINE = True
    try:
        yield
    finally:
        datasets.config.HF_HUB_OFFLINE = before


def hub_revision(hub: Hub) -> str | None:
    """The commit that a dataset on the hub stands at; None where that cannot be had."""
    try:
        return HfApi().dataset_info(hub.parts[0], timeout=HUB_TIMEOUT).sha
    except Exception:  # a dozen kinds here too: out of reach, no such name, not allowed
        return None
