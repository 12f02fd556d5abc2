"""A text as its units (words, or characters where a script has no spaces), and these as hashed n-grams."""

import re
import unicodedata
from functools import lru_cache
from hashlib import blake2b

import numpy as np

# Scripts that write no space between words: Thai to Khmer, Chinese, Japanese. Korean has spaces.
UNSPACED = (
    r"\u0e00-\u0fff\u1000-\u109f\u1780-\u17ff\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\u3400-\u4dbf\u4e00-\u9fff"
    r"\uf900-\ufaff\U00020000-\U0003ffff"
)
SIGNS = r"\-+*/%=<>^~|&@#$\\\u2190-\u2bff\U0001f000-\U0001faff"  # they carry meaning in sums and in code
# White space, controls and punctuation.
BETWEEN = r"\s\x00-\x1f\x7f-\x9f!-/:-@\[-\^`{-~\u00a0-\u00bf\u2000-\u206f\u3000-\u3004\u3008-\u303f"
WORD = rf"[^{UNSPACED}{SIGNS}{BETWEEN}]+"
UNIT = re.compile(rf"[{UNSPACED}]|([{SIGNS}])\1*|{WORD}(?:'{WORD})*")
CHARACTER = re.compile(rf"[{UNSPACED}]")
MULTIPLIER = np.uint64(0x9E3779B97F4A7C15)  # odd, so that multiplying loses nothing modulo 2**64


def plain(text: str) -> str:
    """The text with lower-case letters and single spaces: texts that it makes equal are exact duplicates."""
    return " ".join(text.casefold().split())


def units(text: str) -> list[str]:
    """Words in lower case, each character of a script without spaces, each run of a sign; no punctuation."""
    text = unicodedata.normalize("NFKC", text).casefold().replace("’", "'")
    return [match[0] for match in UNIT.finditer(text)]


def unspaced_share(words: list[str]) -> float:
    """The share of the units that are characters of a script without spaces."""
    return sum(map(bool, map(CHARACTER.match, words))) / len(words) if words else 0.0


def joined(words: list[str]) -> str:
    """Units as a text to read: a space beside every word, none between characters."""
    text = ""
    for unit in words:
        space = text and not (CHARACTER.match(text[-1]) and CHARACTER.match(unit))
        text += f" {unit}" if space else unit
    return text


def digest(text: str) -> bytes:
    """16 bytes that stand for a text, the same on every machine."""
    return blake2b(text.encode("utf-8", "surrogatepass"), digest_size=16).digest()


def windows(codes: np.ndarray, length: int) -> np.ndarray:
    """Hashes of all n-grams of `length` units in their order, (max(U − length + 1, 0),) uint64, from the
    codes of units that `encode` gives, (U,) uint64."""
    count = max(len(codes) - length + 1, 0)
    hashes = np.zeros(count, dtype=np.uint64)
    for offset in range(length if count else 0):
        hashes = hashes * MULTIPLIER + codes[offset : offset + count]
    return hashes


def encode(words: list[str]) -> np.ndarray:
    """(U,) uint64, a hash of each unit."""
    return np.fromiter(map(_code, words), dtype=np.uint64, count=len(words))


def shingles(text: str, length: int) -> np.ndarray:
    """The set of n-grams of a text, sorted hashes (S,) uint64; a text of fewer units is one n-gram, whole."""
    codes = encode(units(text))
    return np.unique(windows(codes, min(length, max(len(codes), 1))))


def jaccard(left: np.ndarray, right: np.ndarray) -> float:
    """Size of the intersection over size of the union of two results of `shingles`; 0 when both are empty."""
    common = len(np.intersect1d(left, right, assume_unique=True))
    union = len(left) + len(right) - common
    return common / union if union else 0.0


@lru_cache(maxsize=1 << 18)
def _code(unit: str) -> int:
    return int.from_bytes(blake2b(unit.encode("utf-8", "surrogatepass"), digest_size=8).digest(), "little")
