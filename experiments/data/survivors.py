"""Writes chosen rows of a file as they are in it: lines byte for byte, Parquet with its own schema."""

import json
import shutil
from array import array
from bisect import bisect_left
from typing import IO, Any

from datamodules.reading.files import ending, read_file
from datamodules.reading.streams import encoding_errors, open_packed, open_unpacked
from experiments.cli.user_errors import UserError

PARQUET, WHOLE = ".parquet", (".txt", ".md")


def check_writable(file: str, encoding: str | None = None) -> None:
    """Refuses (`UserError`) a kind of file that rows cannot be taken out of, and an encoding whose lines do
    not end as UTF-8's do."""
    if errors := encoding_errors("--encoding", encoding):
        raise UserError(errors[0])
    if "\n".encode(encoding or "utf-8") != b"\n":
        raise UserError(f"FILE: {file}: lines cannot be taken out of {encoding}: save it as UTF-8")
    if ending(file) not in (".jsonl", ".ndjson", ".json", PARQUET, *WHOLE):
        raise UserError(
            f"FILE: {file}: rows can be taken out of .jsonl, .ndjson, .json, .parquet, .txt and .md alone"
        )


def write_survivors(file: str, kept: array, output: IO[bytes], encoding: str | None = None) -> None:
    """Copies rows.

    Args:
        file: one that `check_writable` lets pass.
        kept: the numbers of the rows to copy, from 1, ascending; of lines, in JSON lines.
        output: an open file; compressed again where `file` is.
        encoding: of text files; None = UTF-8.
    """
    if ending(file) == PARQUET:
        _parquet(file, kept, output)
    elif ending(file) in WHOLE:
        if kept:
            with open(file, "rb") as source:
                shutil.copyfileobj(source, output)
    else:
        with open_packed(file, output) as packed:
            _json(file, kept, packed, encoding)


def _json(file: str, kept: array, target: Any, encoding: str | None) -> None:
    """Lines as they are; the rows of an array, written anew, a line each."""
    if not kept:
        return
    if ", row " in next(read_file(file, encoding)).where:
        _array(file, kept, target, encoding)
        return
    wanted = iter(kept)
    line_number = next(wanted, None)
    with open_unpacked(file) as source:
        for number, line in enumerate(source, 1):
            if number == line_number:
                target.write(line if line.endswith(b"\n") else line + b"\n")
                line_number = next(wanted, None)
            if line_number is None:
                return


def _array(file: str, kept: array, target: Any, encoding: str | None) -> None:
    chosen, before = set(kept), "[\n"
    for number, record in enumerate(read_file(file, encoding), 1):
        if number in chosen:
            target.write((before + json.dumps(record.row, ensure_ascii=False)).encode(encoding or "utf-8"))
            before = ",\n"
    target.write(b"\n]\n")


def _parquet(file: str, kept: array, output: IO[bytes]) -> None:
    import pyarrow as pa
    import pyarrow.parquet as pq

    start = 0
    with pq.ParquetFile(file) as source, pq.ParquetWriter(output, source.schema_arrow) as writer:
        for batch in source.iter_batches() if kept else ():
            low, high = bisect_left(kept, start + 1), bisect_left(kept, start + len(batch) + 1)
            rows = pa.array([row - start - 1 for row in kept[low:high]], type=pa.int64())
            writer.write_batch(batch.take(rows))
            start += len(batch)
            if start >= kept[-1]:
                break
