"""What W&B has written of an offline run."""

import struct

from wandb.proto import wandb_internal_pb2 as records

BLOCK, HEADER = 32768, 7
"""bytes of a block of W&B's file, LevelDB's log format, and of a piece's header: checksum, length, kind"""


def kept(run) -> list:
    """The records of a run that W&B keeps offline."""
    data = next(run.glob("wandb/offline-run-*/run-*.wandb")).read_bytes()
    found, parts, place = [], b"", HEADER  # the file has a header of the same size
    while place + HEADER <= len(data):
        if BLOCK - place % BLOCK < HEADER:  # what is left of a block is padding
            place += BLOCK - place % BLOCK
            continue
        length, kind = struct.unpack("<HB", data[place + 4 : place + HEADER])
        parts += data[place + HEADER : place + HEADER + length]
        place += HEADER + length
        if kind in (1, 4):  # whole, or the last piece
            found.append(records.Record.FromString(parts))
            parts = b""
    return found
