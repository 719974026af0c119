"""Documents as tokens, a group of one source at a time; a group that was encoded before is taken from what was kept.

A group is known by its tokenizer and the ids of its documents, which hash their texts: another tokenizer never meets
ids of this one, and a file added to a corpus is the only one that is encoded.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from rung.base.fingerprint import content_hash
from rung.datagen.corpus_build import Keeper
from rung.records.encoding import Encoder
from rung.records.tokenizer import Tokenizer
from rung.records.types import Document

__all__ = ["EncodedGroup", "GroupEncoder", "groups_of"]

# raised by hand when the same text comes to be encoded differently
ENCODING_VERSION = 1
_GROUP_CHARS, _BATCH_CHARS = 4 << 20, 1 << 19


@dataclass(frozen=True)
class EncodedGroup:
    """Documents with their ids, one array after another, and whether they were encoded now."""

    documents: tuple[Document, ...]
    ids: NDArray[np.unsignedinteger]
    starts: NDArray[np.int64]
    is_new: bool

    def of(self, index: int) -> NDArray[np.unsignedinteger]:
        """The ids of one document's text."""
        return self.ids[self.starts[index] : self.starts[index + 1]]


def groups_of(documents: Iterable[Document]) -> Iterator[tuple[Document, ...]]:
    """Runs of documents of one source, of a bounded number of characters."""
    group: list[Document] = []
    size = 0
    for document in documents:
        if group and (document.source != group[0].source or size >= _GROUP_CHARS):
            yield tuple(group)
            group, size = [], 0
        group.append(document)
        size += len(document.text)
    if group:
        yield tuple(group)


class GroupEncoder:
    """Encodes groups with one tokenizer, keeping what it made."""

    def __init__(self, tokenizer: Tokenizer, keeper: Keeper) -> None:
        self._encoder, self._keeper = Encoder(tokenizer), keeper
        self._type = "<u2" if tokenizer.vocabulary_size <= 1 << 16 else "<u4"
        self._key = content_hash([ENCODING_VERSION, tokenizer.inner.to_str()])

    def __call__(self, group: Sequence[Document]) -> EncodedGroup:
        """The group with its ids."""
        made: list[bool] = []

        def fill(folder: Path) -> None:
            """Into an empty folder."""
            made.append(True)
            self._fill(folder, group)

        key = content_hash([self._key, [document.id for document in group]])
        folder = self._keeper.folder("tokens", key, fill)
        return EncodedGroup(
            tuple(group), np.load(folder / "ids.npy"), np.load(folder / "starts.npy"), is_new=bool(made)
        )

    def _fill(self, folder: Path, group: Sequence[Document]) -> None:
        parts, lengths = [], []
        for texts in _batches([document.text for document in group]):
            encoded = self._encoder.encode(texts)
            parts.append(encoded.ids.astype(self._type))
            lengths.append(np.diff(encoded.starts))
        np.save(folder / "ids.npy", np.concatenate(parts))
        np.save(folder / "starts.npy", np.concatenate([[0], np.cumsum(np.concatenate(lengths))]).astype(np.int64))


def _batches(texts: Sequence[str]) -> Iterator[list[str]]:
    batch: list[str] = []
    size = 0
    for text in texts:
        if batch and size + len(text) > _BATCH_CHARS:
            yield batch
            batch, size = [], 0
        batch.append(text)
        size += len(text)
    yield batch
