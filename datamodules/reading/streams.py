"""A file's bytes as they are read: unpacked, and in UTF-8 whatever encoding they are stored in."""

import bz2
import codecs
import gzip
import io
import lzma
import zlib
from typing import Any, NamedTuple

import pyarrow as pa
from charset_normalizer import from_bytes

from datamodules.reading.record import BLOCK, BROKEN_OFF, first_line

CANNOT_UNPACK = (EOFError, gzip.BadGzipFile, zlib.error, lzma.LZMAError)
BOMS = {  # UTF-32 LE begins as UTF-16 does
    codecs.BOM_UTF32_LE: "utf-32",
    codecs.BOM_UTF32_BE: "utf-32",
    codecs.BOM_UTF16_LE: "utf-16",
    codecs.BOM_UTF16_BE: "utf-16",
}
GUESSED = ("gb18030", "big5", "shift_jis", "euc_jp", "euc_kr", "cp1252", "cp1251", "cp1250")
MAX_GUESSED = 100_000  # bytes
GUESSES: dict[str, str] = {}
"""file → the encoding that it seems to have"""
WESTERN = {*map(chr, range(128)), *"àáâãäåæçèéêëìíîïñòóôõöøùúûüÿßœ€«»¿¡°–—‘’“”…"}
INVALID = "\udcff"  # stands for what an encoding does not know; as bytes it is no UTF-8


class Packing(NamedTuple):
    """A way to pack a file."""

    name: str
    magic: bytes
    """the first bytes of such a file"""


PACKINGS = {
    ".gz": Packing("gzip", b"\x1f\x8b"),
    ".bz2": Packing("bzip2", b"BZh"),
    ".xz": Packing("xz", b"\xfd7zXZ\0"),
    ".zst": Packing("zstd", b"\x28\xb5\x2f\xfd"),
}


class _Raw(io.RawIOBase):
    """A stream that is read, made of another; a subclass says what of it comes next."""

    def __init__(self, source: Any):
        self.source, self.rest = source, b""

    def readable(self) -> bool:
        return True

    def next_piece(self) -> bytes:
        """Some more bytes; none at the end."""
        raise NotImplementedError

    def readinto(self, buffer: Any) -> int:
        if not self.rest:
            self.rest = self.next_piece()
        size = min(len(buffer), len(self.rest))
        buffer[:size], self.rest = self.rest[:size], self.rest[size:]
        return size

    def close(self) -> None:
        self.source.close()
        super().close()


class _Unpacked(_Raw):
    """bz2 and zstd, which tell of damage as of a disk that fails, as gzip does: by an EOFError."""

    def next_piece(self) -> bytes:
        try:
            return self.source.read(BLOCK)
        except OSError as error:
            if error.errno:
                raise
            raise EOFError(first_line(error)) from error


class _Recoded(_Raw):
    """Bytes of another encoding as UTF-8; what the encoding does not know is made no UTF-8 either, so that
    it is found in its row and reading goes on."""

    def __init__(self, source: Any, encoding: str):
        super().__init__(source)
        self.decoder = codecs.getincrementaldecoder(encoding)("trivium.invalid")

    def next_piece(self) -> bytes:
        while data := self.source.read1(BLOCK):
            if text := self.decoder.decode(data):
                return text.encode("utf-8", "surrogateescape")
        return self.decoder.decode(b"", True).encode("utf-8", "surrogateescape")


codecs.register_error("trivium.invalid", lambda error: (INVALID, error.end))  # type: ignore[attr-defined]


def packing(file: str) -> str:
    """The ending that says how a file is packed; "" where none does."""
    return next((ending for ending in PACKINGS if file.lower().endswith(ending)), "")


def open_unpacked(file: str, encoding: str | None = None) -> Any:
    """A file's bytes, unpacked where its name says that it is packed; of another encoding as UTF-8."""
    # ruff: noqa: SIM115 (who is given a stream closes it)
    stream: Any
    match packing(file):
        case ".gz":
            stream = gzip.open(file, "rb")
        case ".xz":
            stream = lzma.open(file, "rb")
        case ".bz2":
            stream = io.BufferedReader(_Unpacked(bz2.open(file, "rb")), BLOCK)
        case ".zst":
            stream = io.BufferedReader(_Unpacked(pa.input_stream(file, compression="zstd")), BLOCK)
        case _:
            stream = open(file, "rb")
    return stream if is_utf8(encoding) else io.BufferedReader(_Recoded(stream, str(encoding)), BLOCK)


def open_packed(file: str, output: Any) -> Any:
    """A stream that packs what is written into `output` as the name of `file` says; `output` stays open."""
    match packing(file):
        case ".gz":
            return gzip.GzipFile("", "wb", fileobj=output, mtime=0)
        case ".xz":
            return lzma.open(output, "wb")
        case ".bz2":
            return bz2.open(output, "wb")
        case ".zst":
            return pa.CompressedOutputStream(pa.PythonFile(_Kept(output), "w"), "zstd")
        case _:
            return _Kept(output)


class _Kept:
    """An open file that whoever is given it cannot close."""

    closed = False

    def __init__(self, file: Any):
        self.write, self.flush = file.write, file.flush

    def close(self) -> None:
        self.flush()

    def __enter__(self) -> "_Kept":
        return self

    def __exit__(self, *_: Any) -> None:
        self.flush()


def is_utf8(encoding: str | None) -> bool:
    return encoding is None or codecs.lookup(encoding).name in ("utf-8", "utf-8-sig")


def encoding_errors(field: str, encoding: str | None) -> list[str]:
    """The line that refuses an encoding which Python does not know, which is none of texts, or which knows no
    way to go on after bytes that are wrong (`idna`)."""
    try:
        known = "utf-8" if encoding is None else encoding
        codecs.getincrementaldecoder(known)("trivium.invalid").decode("text".encode(known), True)
    except (LookupError, TypeError, UnicodeError):
        return [f"{field} is {encoding!r}: give the name of an encoding, such as gb18030, cp1252 or utf-16"]
    return []


def likely_encoding(data: bytes) -> str:
    """The encoding that some bytes which are no UTF-8 seem to have; "" where none is likely."""
    for bom, name in BOMS.items():
        if data.startswith(bom):
            return name
    likely = [match.encoding for match in from_bytes(data, cp_isolation=list(GUESSED))]
    if not likely:
        return ""
    best = likely[0]
    if best in ("euc_kr", "euc_jp") and "gb18030" in likely:  # they share their bytes; Korean is all Hangul
        letters = [c for c in data.decode(best, "ignore") if ord(c) > 0x2FFF and c.isalpha()]
        korean = best == "euc_kr" and all("가" <= c <= "힣" for c in letters)
        kana = best == "euc_jp" and any("ぁ" <= c <= "ヿ" for c in letters)
        best = best if korean or kana else "gb18030"
    if best == "cp1250" and set(data.decode("cp1252", "replace").lower()) <= WESTERN:
        return "cp1252"
    return best


def cannot_unpack(error: BaseException) -> str:
    return f"cannot be unpacked{BROKEN_OFF} ({first_line(error)})"


def not_utf8(file: str, byte: int, data: bytes, encoding: str | None = None, more: str = "") -> str:
    """Of `data`, bytes of a file whose byte of this number cannot be read."""
    if not is_utf8(encoding):
        return f"is not {encoding}{more} (set `encoding` to another, or leave it out for UTF-8)"
    unpacked = "unpacked " if packing(file) else ""
    if file not in GUESSES:  # once: a file may have a million such rows
        GUESSES[file] = likely_encoding(data[:MAX_GUESSED])
    guess = f", perhaps to {GUESSES[file]}" if GUESSES[file] else ""
    return f"is not UTF-8{more} (byte {byte} of the {unpacked}file): set `encoding`{guess}"
