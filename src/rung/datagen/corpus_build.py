"""A corpus out of sources: each piece is processed on its own and kept, then repeats are found over all of them.

A processed piece is a folder that is known by what went in (the piece's content, the settings of reading and checking,
the benchmarks): asked for again it is not processed again, so a file added to a corpus costs one file. Memory holds one
document at a time, and for each document of the corpus a few numbers.
"""

from __future__ import annotations

import io
import json
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import zstandard
from numpy.typing import NDArray

from rung.base.files import read_json, write_json
from rung.base.fingerprint import content_hash
from rung.datagen.corpus_checks import CheckSettings, documents_of
from rung.datagen.corpus_near import NearSettings, Signer, first_of_each, near_groups
from rung.datagen.corpus_overlap import Overlap
from rung.datagen.corpus_reading import excerpt
from rung.datagen.corpus_source import Piece
from rung.records.token_shards import document_key
from rung.records.types import Document, Drop, to_plain

__all__ = ["PROCESSING_VERSION", "Build", "Keeper", "Kept"]

# raised by hand when the same piece comes to be processed differently
PROCESSING_VERSION = 1
_KEPT_DROPS = 50


class Keeper(Protocol):
    """Keeps folders by what they are made of (`rung.models.cache.Cache` is one)."""

    def folder(self, kind: str, key: str, fill: Callable[[Path], None]) -> Path:
        """The folder of that name, filled first when it is not there."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A piece that was processed: its folder holds documents, their numbers, and what was dropped."""

    source: str
    piece: Piece
    folder: Path
    is_new: bool

    def documents(self) -> Iterator[Document]:
        """Its documents, one at a time."""
        with (
            (self.folder / "documents.jsonl.zst").open("rb") as file,
            zstandard.ZstdDecompressor().stream_reader(file) as reader,
        ):
            for line in io.TextIOWrapper(reader, "utf-8", newline="\n"):
                yield Document(**{**json.loads(line), "source": self.source})

    @property
    def drops(self) -> Mapping[str, int]:
        """Reason to count."""
        return dict(read_json(self.folder / "counts.json"))

    def dropped(self) -> list[Drop]:
        """The first of each reason."""
        return [Drop(**{**values, "span": None}) for values in read_json(self.folder / "drops.json")]


class Build:
    """Processes pieces and finds repeats.

    Args:
        checks: what may become a document.
        near: what counts as nearly the same.
        exact: whether equal texts are kept once.
        overlap: the benchmarks to stay clear of.
        overlap_key: what these are, for the identity of what is kept.
    """

    def __init__(
        self, checks: CheckSettings, near: NearSettings, *, exact: bool, overlap: Overlap, overlap_key: str
    ) -> None:
        self._checks, self._near, self._exact = checks, near, exact
        self._overlap, self._overlap_key = overlap, overlap_key
        self._sign = Signer(near) if near.is_on else None

    def process(self, source: str, reading: Any, piece: Piece, keeper: Keeper) -> Kept:
        """Read and check a piece, or take what is kept of it. `reading` are the settings of the source."""
        what = [PROCESSING_VERSION, reading, piece.name, piece.content, self._checks, self._near, self._overlap_key]
        made: list[Path] = []

        def fill(folder: Path) -> None:
            """Into an empty folder."""
            made.append(folder)
            self._fill(folder, piece)

        folder = keeper.folder("corpus", content_hash(what), fill)
        return Kept(f"{source}/{piece.name}", piece, folder, bool(made))

    def _fill(self, folder: Path, piece: Piece) -> None:
        counts: Counter[str] = Counter()
        first: list[Drop] = []
        keys: list[int] = []
        with (
            (folder / "documents.jsonl.zst").open("wb") as file,
            zstandard.ZstdCompressor(level=1).stream_writer(file) as documents,
            (folder / "signatures").open("wb") as signatures,
        ):
            for one in self._documents(piece):
                if isinstance(one, Drop):
                    counts[one.reason] += 1
                    first += [one] if counts[one.reason] <= _KEPT_DROPS else []
                    continue
                documents.write(json.dumps(to_plain(one), ensure_ascii=False).encode() + b"\n")
                keys.append(document_key(one.id))
                if self._sign:
                    signatures.write(self._sign(one.text).tobytes())
        np.save(folder / "keys.npy", np.asarray(keys, np.uint64))
        write_json(folder / "counts.json", dict(counts))
        write_json(folder / "drops.json", first)

    def _documents(self, piece: Piece) -> Iterator[Document | Drop]:
        for found in piece.read():
            if isinstance(found, Drop):
                yield found
            else:
                yield from documents_of(found, piece.name, self._checks, self._overlap)

    def repeats(self, kept: Sequence[Kept], scratch: Path) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """For each document of all pieces, in order, the number of the first one that it equals, and that it nearly
        equals; its own number when it is the first."""
        keys_N = np.concatenate([np.zeros(0, np.uint64), *(np.load(one.folder / "keys.npy") for one in kept)])
        own_N = np.arange(len(keys_N))
        _, first, back = np.unique(keys_N, return_index=True, return_inverse=True)
        exact_N = first[back] if self._exact else own_N
        if not self._sign or not len(keys_N):
            return exact_N, own_N
        path = scratch / "signatures"
        with path.open("wb") as file:
            for one in kept:
                with (one.folder / "signatures").open("rb") as part:
                    shutil.copyfileobj(part, file)
        near_N = near_groups(path, first_of_each(keys_N), self._near.similarity)
        path.unlink()
        return exact_N, near_N

    def documents(self, kept: Sequence[Kept], scratch: Path) -> Iterator[Document | Drop]:
        """All documents in order, and those that repeat an earlier one as drops that name it."""
        exact_N, near_N = self.repeats(kept, scratch)
        names = np.concatenate([np.zeros(0, np.uint64), *(np.load(one.folder / "keys.npy") for one in kept)])
        numbers = iter(range(len(names)))
        for one in kept:
            for document in one.documents():
                number = next(numbers)
                of = (int(exact_N[number]), "exact_repeat") if exact_N[number] != number else None
                of = of or ((int(near_N[number]), "near_repeat") if near_N[number] != number else None)
                yield document if of is None else _repeat(document, f"{int(names[of[0]]):016x}", of[1])


def _repeat(document: Document, of: str, reason: str) -> Drop:
    place = str(document.meta.get("place", document.id))
    return Drop(place, excerpt(document.text), "corpus", reason, detail={"repeats": of})
