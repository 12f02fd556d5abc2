"""The file of a W&B run offline, which `wandb sync` reads and the package has no function for: records in the
log format of LevelDB (blocks of 32 KiB; a header of 7 bytes: checksum, length, type), each a message of
W&B's."""

import json
import struct
from collections.abc import Iterator
from pathlib import Path

BLOCK, HEADER = 32768, 7
FULL, FIRST, LAST = 1, 2, 4  # else a piece in the middle


def offline_history(run: Path) -> list[dict[str, str]]:
    """What `wandb.log` was given in the last offline run below a folder, a row each; nested keys are dotted.
    While the run goes on W&B writes it in large pieces."""
    files = sorted(file for file in run.glob("wandb/*run-*/*.wandb") if not file.parent.is_symlink())
    if not files:
        return []
    from wandb.proto.wandb_internal_pb2 import Record

    rows = []
    for data in _records(files[-1].read_bytes()):
        record = Record()
        record.ParseFromString(data)
        if record.WhichOneof("record_type") == "history":
            row = {
                item.key or ".".join(item.nested_key): str(json.loads(item.value_json))
                for item in record.history.item
            }
            rows.append({"step": row.pop("_step", "")} | row)
    return rows


def _records(data: bytes) -> Iterator[bytes]:
    place, pieces = HEADER, b""  # the file begins with a header of its own
    while place + HEADER <= len(data):
        left = BLOCK - place % BLOCK
        if left < HEADER:  # too little for a record: filled with zeros
            place += left
            continue
        _, length, kind = struct.unpack_from("<IHB", data, place)
        end = place + HEADER + length
        if end > len(data) or not kind:
            return  # not written to its end yet
        pieces = data[place + HEADER : end] if kind in (FULL, FIRST) else pieces + data[place + HEADER : end]
        if kind in (FULL, LAST):
            yield pieces
        place = end
