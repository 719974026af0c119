"""Repeats over a whole corpus: exact ones by their ids, near ones by MinHash, in memory that does not grow with texts.

Broder 1997, "On the resemblance and containment of documents": the share of equal entries in two signatures estimates
the overlap (Jaccard) of two documents' runs of words. Signatures lie in a file; documents that agree in a whole band of
entries are compared, and the first of each group that hangs together stays. An estimate from 128 entries is off by 0.04
(one standard deviation at 0.8).

Legend: N document, P permutation, W shingle.
"""

from __future__ import annotations

import zlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rung.base.settings import Field, Settings
from rung.datagen.corpus_words import quick_words

__all__ = ["NearSettings", "Signer", "first_of_each", "near_groups"]

_NUM_PERMUTATIONS, _BAND = 128, 4
_CHUNK, _PAIRS = 1 << 16, 1 << 13
_MOST_SHINGLES = 4096


class NearSettings(Settings):
    """What counts as nearly the same."""

    similarity: float = Field(0.8, ge=0.5, le=1, description="estimated overlap of runs of words from which on; 1: off")
    run_of_words: int = Field(5, ge=1, le=20, description="words of one run")

    @property
    def is_on(self) -> bool:
        """Whether near repeats are looked for at all."""
        return self.similarity < 1


class Signer:
    """Makes signatures [P] of texts; the same on every machine."""

    def __init__(self, settings: NearSettings) -> None:
        draw = np.random.Generator(np.random.PCG64(1))
        self._size = settings.run_of_words
        self._factors_P1 = draw.integers(1, 1 << 63, (_NUM_PERMUTATIONS, 1), np.uint64) | np.uint64(1)
        self._offsets_P1 = draw.integers(0, 1 << 63, (_NUM_PERMUTATIONS, 1), np.uint64)
        self._mix = draw.integers(1, 1 << 63, self._size, np.uint64) | np.uint64(1)

    def __call__(self, text: str) -> NDArray[np.uint16]:
        """The signature of a text. Entries keep 16 bits, which two different documents share one time in 65536."""
        shingles_W = self.shingles(text)
        lowest_P = np.full(_NUM_PERMUTATIONS, np.iinfo(np.uint64).max, np.uint64)
        for start in range(0, len(shingles_W), _MOST_SHINGLES):
            part_W = shingles_W[start : start + _MOST_SHINGLES]
            hashed_PW = (self._factors_P1 * part_W + self._offsets_P1) >> np.uint64(20)
            lowest_P = np.minimum(lowest_P, hashed_PW.min(axis=1))
        return (lowest_P & np.uint64(0xFFFF)).astype(np.uint16)

    def shingles(self, text: str) -> NDArray[np.uint64]:
        """Runs of words as different numbers; a text of fewer words is one run."""
        words = quick_words(text)
        hashed = np.fromiter(map(zlib.crc32, words), np.uint64, len(words))
        size = min(self._size, len(words))
        if not size:
            return np.zeros(1, np.uint64)
        runs = np.zeros(len(hashed) - size + 1, np.uint64)
        for place in range(size):
            runs += hashed[place : place + len(runs)] * self._mix[place]
            runs ^= runs >> np.uint64(29)
        return np.unique(runs)


def first_of_each(keys_N: NDArray[np.uint64]) -> NDArray[np.bool_]:
    """True where a key stands for the first time."""
    kept_N = np.zeros(len(keys_N), bool)
    kept_N[np.unique(keys_N, return_index=True)[1]] = True
    return kept_N


def near_groups(path: Path, among_N: NDArray[np.bool_], similarity: float) -> NDArray[np.int64]:
    """For each document the number of the first one that it hangs together with, itself when there is none.

    Args:
        path: the signatures of all documents, one after another.
        among_N: which documents take part.
        similarity: estimated overlap from which two are near.
    """
    first_N = np.arange(len(among_N))
    for band in range(0, _NUM_PERMUTATIONS, _BAND):
        for left, right in _alike(path, among_N, band):
            near = _overlap(path, left, right) >= similarity
            for a, b in zip(left[near].tolist(), right[near].tolist(), strict=True):
                one, other = sorted((_root(first_N, a), _root(first_N, b)))
                first_N[other] = one
    return np.asarray([_root(first_N, i) for i in range(len(first_N))], np.int64)


def _alike(path: Path, among_N: NDArray[np.bool_], band: int) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs that agree in a band: each document with the one before it in its bucket."""
    hashed_N = np.zeros(len(among_N), np.uint64)
    for start in range(0, len(among_N), _CHUNK):
        rows = _opened(path)[start : start + _CHUNK, band : band + _BAND]
        hashed_N[start : start + len(rows)] = np.ascontiguousarray(rows).view(np.uint64)[:, 0]
    members = np.flatnonzero(among_N)
    order = members[np.argsort(hashed_N[members], kind="stable")]
    same = np.flatnonzero(hashed_N[order[1:]] == hashed_N[order[:-1]])
    for start in range(0, len(same), _PAIRS):
        part = same[start : start + _PAIRS]
        yield order[part], order[part + 1]


def _overlap(path: Path, left: NDArray[np.int64], right: NDArray[np.int64]) -> NDArray[np.float64]:
    """Estimated overlap of pairs; the file is mapped anew each time, so that what was read does not stay in memory."""
    signatures = _opened(path)
    equal: NDArray[np.float64] = (signatures[left] == signatures[right]).mean(axis=1)
    return equal


def _opened(path: Path) -> NDArray[np.uint16]:
    return np.memmap(path, np.uint16, mode="r").reshape(-1, _NUM_PERMUTATIONS)


def _root(first_N: NDArray[np.int64], index: int) -> int:
    while first_N[index] != index:
        first_N[index] = first_N[first_N[index]]
        index = int(first_N[index])
    return index
