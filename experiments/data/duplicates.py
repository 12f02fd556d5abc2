"""Finds the texts that were there before, exactly or nearly, while they go by; no text is kept."""

import math
from array import array
from tempfile import TemporaryFile
from typing import Literal, NamedTuple

import numpy as np

from experiments.cli.user_errors import UserError
from experiments.data.shingles import digest, jaccard, plain, shingles
from experiments.data.texts import needed

PERMUTATIONS = 128  # at most; 4 bytes each a text
RECALL = 0.999  # of pairs that are exactly as similar as the threshold; of more similar ones more
DEVIATIONS = 3  # standard errors of the estimate below the threshold, from where on a pair is not verified


class Match(NamedTuple):
    """The earlier text that a text duplicates."""

    kind: Literal["exact", "near"]  # exact: equal but for case and white space
    number: int  # of the earlier text, counted from 0 over the texts that were kept
    similarity: float  # Jaccard's, of the two sets of n-grams; 1 for `exact`


class Duplicates:
    """Tells of each text whether an earlier one, that was kept, is the same or nearly the same.

    MinHash signatures in an LSH index (Broder 1997; Leskovec, Rajaraman, Ullman, Mining of Massive Datasets,
    chapter 3) give the candidates; a candidate counts when the true Jaccard similarity of the two sets of
    hashed n-grams reaches the threshold. A text that was kept takes about 3 KB of memory, and 8 bytes an
    n-gram in a temporary file. Below a threshold of about 0.05 the index finds less than `RECALL` says.

    Args:
        threshold: least Jaccard similarity of a near duplicate, above 0 and at most 1.
        ngram: units in an n-gram: words, or characters of a script without spaces.
        exact_only: look for exact duplicates alone.
        folder: where the temporary file is; by default where the system keeps them.

    Raises:
        UserError: an argument out of its range, or a library is missing.
    """

    def __init__(
        self, threshold: float = 0.8, ngram: int = 5, exact_only: bool = False, folder: str | None = None
    ):
        if not 0 < threshold <= 1:
            raise UserError(f"--threshold is {threshold:g}: give a number above 0 and at most 1")
        if ngram < 1:
            raise UserError(f"--ngram is {ngram}: give a whole number of 1 or more")
        self.threshold, self.ngram, self.exact_only = threshold, ngram, exact_only
        self.kept = 0
        self._digests: dict[bytes, int] = {}
        if exact_only:
            return
        self._rensa = needed("rensa")
        bands, self._permutations = _bands(threshold)
        self._index = self._rensa.RMinHashLSH(threshold, self._permutations, bands)
        error = math.sqrt(threshold * (1 - threshold) / self._permutations)
        self._least_estimate = threshold - DEVIATIONS * error
        self._signatures = array("I")  # of each kept text `_permutations` numbers, zeros without an n-gram
        self._starts, self._sizes = array("Q"), array("Q")  # in the file, in n-grams, of each kept text
        self._end = 0
        self._file = TemporaryFile(dir=folder)  # noqa: SIM115, it lives as long as this object

    def add(self, text: str) -> Match | None:
        """The earlier text that this one duplicates; None when it is kept, and may be duplicated itself."""
        key = digest(plain(text))
        if key in self._digests:
            return Match("exact", self._digests[key], 1.0)
        if not self.exact_only:
            near = self._near(shingles(text, self.ngram))
            if near:
                return near
        self._digests[key] = self.kept
        self.kept += 1
        return None

    def _near(self, hashes: np.ndarray) -> Match | None:
        """The earliest near duplicate; where there is none, the hashes are kept."""
        signature = np.zeros(self._permutations, dtype=np.uint32)
        if len(hashes):
            minhash = self._rensa.RMinHash(num_perm=self._permutations, seed=1)
            minhash.update(hashes.view("V8").tolist())
            signature = np.array(minhash.digest(), dtype=np.uint32)
            for number in self._candidates(self._index.query(minhash), signature, len(hashes)):
                similarity = jaccard(hashes, self._read(number))
                if similarity >= self.threshold:
                    return Match("near", number, similarity)
            self._index.insert(self.kept, minhash)
        self._signatures.frombytes(signature.tobytes())
        self._starts.append(self._end)
        self._sizes.append(len(hashes))
        self._file.seek(8 * self._end)
        self._file.write(hashes.tobytes())
        self._end += len(hashes)
        return None

    def _candidates(self, indexed: list[int], signature: np.ndarray, size: int) -> list[int]:
        """Those of the index's texts that size and estimate leave possible, the earliest first."""
        if not indexed:
            return []
        numbers = np.sort(np.array(indexed))
        sizes = np.frombuffer(self._sizes, dtype=np.uint64)[numbers]
        numbers = numbers[np.minimum(sizes, size) >= self.threshold * np.maximum(sizes, size)]
        signatures = np.frombuffer(self._signatures, dtype=np.uint32).reshape(-1, self._permutations)
        estimates = (signatures[numbers] == signature).mean(axis=1)
        return numbers[estimates >= self._least_estimate].tolist()

    def _read(self, number: int) -> np.ndarray:
        self._file.seek(8 * self._starts[number])
        return np.frombuffer(self._file.read(8 * self._sizes[number]), dtype=np.uint64)


def _bands(threshold: float) -> tuple[int, int]:
    """The number of bands of the index, and of permutations, a multiple of it: the longest bands, which give
    the fewest candidates, that still find `RECALL` of the pairs at the threshold."""
    for rows in range(PERMUTATIONS, 1, -1):
        bands = PERMUTATIONS // rows
        if 1 - (1 - threshold**rows) ** bands >= RECALL:
            return bands, bands * rows
    return PERMUTATIONS, PERMUTATIONS
