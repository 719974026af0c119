"""A corpus as tokens on disk: one long row of ids that is mapped into memory, never read into it, and where documents
are.

A part (`train`, `held_out`) is three files: `NAME.tokens` (little-endian, two bytes an id when they fit),
`NAME.starts.npy` (where each document starts, and the end) and `NAME.documents.npy` (for each its id and the bytes of
its text). A document is its start tokens, its text and its end tokens; nothing is cut and nothing lost.

Legend: N token of a document.
"""

from __future__ import annotations

from array import array
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType

import numpy as np
from numpy.typing import NDArray

from rung.base.errors import DataError
from rung.base.files import TEMPORARY_SUFFIX, publish, write_json
from rung.base.seeds import derive

__all__ = ["TokenShard", "TokenWriter", "document_key", "is_held_out"]

_NARROW = 1 << 16
_DOCUMENT = np.dtype([("key", "<u8"), ("num_bytes", "<u4")])


def document_key(document_id: str) -> int:
    """A document's id as the number that shards keep.

    Raises:
        DataError: it is not 16 hexadecimal digits.
    """
    try:
        key = int(document_id, 16)
    except ValueError:
        key = -1
    if not 0 <= key < 1 << 64:
        raise DataError(f"'{document_id}' is no document's id", hint="16 hexadecimal digits, see rung.records.types")
    return key


def is_held_out(document_id: str, share: float) -> bool:
    """Whether a document is kept for measuring: a property of its text alone, so every stage decides the same."""
    return derive(0, "held out document", document_id) < share * 2**63


class TokenWriter:
    """Writes one part, document after document; it appears under its name when the writer is closed without an error.

    Args:
        folder: where.
        name: of the part.
        vocabulary: entries of the tokenizer; decides the width of an id.
    """

    def __init__(self, folder: Path, name: str, vocabulary: int) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self._path = folder / f"{name}.tokens"
        self._vocabulary, self._type = vocabulary, "<u2" if vocabulary <= _NARROW else "<u4"
        self._temporary = self._path.with_name(self._path.name + TEMPORARY_SUFFIX)
        self._file = self._temporary.open("wb")
        self._starts, self._keys, self._bytes = array("Q", [0]), array("Q"), array("L")

    def __enter__(self) -> TokenWriter:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, at: TracebackType | None) -> None:
        self._file.close()
        if kind is None:
            self._publish()
        else:
            self._temporary.unlink(missing_ok=True)

    @property
    def num_tokens(self) -> int:
        """Written so far."""
        return self._starts[-1]

    @property
    def num_documents(self) -> int:
        """Written so far."""
        return len(self._keys)

    def add(self, key: int, ids_N: NDArray[np.uint32] | Sequence[int], num_bytes: int) -> None:
        """Append a document.

        Raises:
            DataError: no token, or an id that the vocabulary does not have.
        """
        tokens_N = np.asarray(ids_N)
        if not len(tokens_N) or int(tokens_N.max()) >= self._vocabulary:
            raise DataError(f"a document of {len(tokens_N)} tokens, or one beyond {self._vocabulary}", place=f"{key:x}")
        self._file.write(tokens_N.astype(self._type).tobytes())
        self._starts.append(self._starts[-1] + len(tokens_N))
        self._keys.append(key)
        self._bytes.append(num_bytes)

    def _publish(self) -> None:
        name = self._path.stem
        documents = np.zeros(len(self._keys), _DOCUMENT)
        documents["key"], documents["num_bytes"] = np.asarray(self._keys), np.asarray(self._bytes)
        np.save(self._path.with_name(f"{name}.starts.npy"), np.asarray(self._starts, "<u8"))
        np.save(self._path.with_name(f"{name}.documents.npy"), documents)
        facts = {"vocabulary": self._vocabulary, "type": self._type, "num_tokens": self.num_tokens}
        write_json(self._path.with_name(f"{name}.json"), {**facts, "num_documents": self.num_documents})
        publish(self._temporary, self._path)


class TokenShard:
    """One part, opened: ids stay on disk until they are asked for.

    Raises:
        DataError: a file is missing, or they do not fit each other.
    """

    def __init__(self, folder: Path, name: str, vocabulary: int) -> None:
        self.name = name
        try:
            self.starts = np.load(folder / f"{name}.starts.npy", mmap_mode="r")
            self._documents = np.load(folder / f"{name}.documents.npy", mmap_mode="r")
            kind = "<u2" if vocabulary <= _NARROW else "<u4"
            path = folder / f"{name}.tokens"
            empty = not path.stat().st_size
            self.ids: NDArray[np.unsignedinteger] = np.zeros(0, kind) if empty else np.memmap(path, kind, mode="r")
        except (OSError, ValueError) as error:
            raise DataError(f"cannot read the tokens: {error}", place=name, hint="run the stage again") from error
        if len(self.ids) != int(self.starts[-1]) or len(self.starts) != len(self._documents) + 1:
            raise DataError(f"{len(self.ids)} tokens where {int(self.starts[-1])} are said", place=name)

    @property
    def num_tokens(self) -> int:
        """In all documents."""
        return len(self.ids)

    @property
    def num_documents(self) -> int:
        """Documents."""
        return len(self._documents)

    def document(self, index: int) -> NDArray[np.int64]:
        """The ids of one document [N]."""
        return np.asarray(self.ids[int(self.starts[index]) : int(self.starts[index + 1])], np.int64)

    def keys(self) -> NDArray[np.uint64]:
        """The ids of the documents as numbers."""
        return np.asarray(self._documents["key"])

    def num_bytes(self, num_documents: int | None = None) -> int:
        """Bytes of the texts of all documents, or of the first so many."""
        return int(self._documents["num_bytes"][:num_documents].sum(dtype=np.int64))
