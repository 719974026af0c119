"""Published data sets behind one base: a new one is a file that says where it lies and how a row becomes a record.

Rows come from local files in the data set's own layout (any format of `corpus_reading`), or are streamed from the hub.
As a source of a corpus (`pieces`) a record is read as text; `records` gives it as it is. A row that lacks what its
layout promises is a drop with its place.
"""

from __future__ import annotations

import importlib
import json
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pydantic

from rung.base.errors import DataError, MissingDependency
from rung.base.fingerprint import content_hash
from rung.base.settings import Field, Settings
from rung.datagen.corpus_reading import SUFFIXES, Layout, Row, excerpt, read_rows
from rung.datagen.corpus_source import Found, Piece, content_of_file, files_below
from rung.records.types import Dialogue, Document, Drop, Message, RepairTask, TestItem, record_id

__all__ = ["Published", "PublishedSettings", "Record", "dialogue", "listed", "text_of"]

Record = Document | Dialogue | TestItem | RepairTask
_ENDINGS = tuple(e + c for e in SUFFIXES if SUFFIXES[e] != "text" for c in ("", ".gz", ".zst"))


class PublishedSettings(Settings):
    """Where the data set is, and how much of it."""

    path: Path | None = Field(None, description="a file in the data set's layout, or a folder of them; none: the hub")
    split: str = Field("train", min_length=1, description="of the hub's data set; local files are what they are")
    subset: str = Field("", description="of the hub's data set, where it has several")
    revision: str = Field("main", min_length=1, description="of the hub's data set; a commit is the same for ever")
    limit: int = Field(0, ge=0, description="rows read of each file or split, the first; 0: all")

    @pydantic.model_validator(mode="after")
    def _one_place(self) -> PublishedSettings:
        """A file has no subset."""
        if self.path is not None and self.subset:
            raise ValueError("a local file has no subset: name the file alone")
        return self


class Published(ABC):
    """A data set; subclasses give `repository` and `record`. Where a row is not of the layout `record` raises
    DataError, or what taking it apart raises by itself (KeyError, TypeError, ValueError): the row becomes a drop that
    says so."""

    Settings: ClassVar[type[PublishedSettings]] = PublishedSettings
    repository: ClassVar[str]

    def __init__(self, settings: PublishedSettings) -> None:
        self.settings = settings

    @abstractmethod
    def record(self, row: Mapping[str, Any]) -> Record:
        """What a row is."""

    def pieces(self) -> list[Piece]:
        """The files, or the hub's split as one piece that is known by its revision."""
        return [Piece(name, content, partial(_as_text, self, name)) for name, content in self._places()]

    def records(self) -> Iterator[Record | Drop]:
        """Every row as its record, in order."""
        for name, _ in self._places():
            for _, one in self.read(name):
                yield one

    def read(self, name: str) -> Iterator[tuple[str, Record | Drop]]:
        """(place, record) of every row of one place."""
        for row in islice(self._rows(name), self.settings.limit or None):
            if isinstance(row, Drop):
                yield row.id, row
                continue
            try:
                yield row.place, self.record(row.values)
            except (DataError, KeyError, TypeError, ValueError) as error:
                what = error.message if isinstance(error, DataError) else f"{type(error).__name__}: {error}"
                detail = {"error": what}
                yield (
                    row.place,
                    Drop(row.place, excerpt(str(dict(row.values))), "reading", "other_layout", detail=detail),
                )

    def _places(self) -> list[tuple[str, str]]:
        s = self.settings
        if s.path is None:
            return [(f"{self.repository}/{s.split}", content_hash([self.repository, s.subset, s.split, s.revision]))]
        return [(name, content_of_file(path)) for name, path in files_below(s.path, _ENDINGS)]

    def _rows(self, name: str) -> Iterator[Row | Drop]:
        if self.settings.path is None:
            return _streamed(self.repository, self.settings)
        path = self.settings.path if self.settings.path.is_file() else self.settings.path / name
        return read_rows(path, name, Layout())


def dialogue(turns: Sequence[tuple[str, Any]], source: str, language: str = "", **meta: Any) -> Dialogue:
    """A conversation of (role, text) turns.

    Raises:
        DataError: no turns, a role that is none, or a turn without text.
    """
    messages = tuple(Message(role, text) for role, text in turns)
    for message in messages:
        if message.role not in ("system", "user", "assistant", "tool"):
            raise DataError(f"no role is called {message.role!r:.40}")
        if not isinstance(message.content, str) or not message.content.strip():
            raise DataError(f"a turn of the {message.role} without text")
    if not messages:
        raise DataError("a conversation without turns")
    return Dialogue(record_id([[m.role, m.content] for m in messages]), messages, source, "", language, meta)


def listed(value: Any, name: str) -> tuple[Any, ...]:
    """A list, also one that is written as JSON text.

    Raises:
        DataError: it is none.
    """
    try:
        found = json.loads(value) if isinstance(value, str) else value
    except ValueError as error:
        raise DataError(f"'{name}' is no JSON: {error}") from error
    if not isinstance(found, (list, tuple)):
        raise DataError(f"'{name}' is no list but a {type(found).__name__}")
    return tuple(found)


def text_of(record: Record) -> str:
    """A record as a text to learn from: its parts in order, an empty line between them."""
    if isinstance(record, Document):
        return record.text
    if isinstance(record, Dialogue):
        return "\n\n".join(message.content for message in record.messages)
    if isinstance(record, TestItem):
        return "\n\n".join(filter(None, (record.instruction, record.reference)))
    return f"{record.problem}\n\n{record.patch}"


def _as_text(source: Published, name: str) -> Iterator[Found | Drop]:
    for place, one in source.read(name):
        if isinstance(one, Drop):
            yield one
        else:
            said = (one.licence, one.language) if isinstance(one, (Document, Dialogue)) else ("", "")
            yield Found(place, text_of(one), *said)


def _streamed(repository: str, settings: PublishedSettings) -> Iterator[Row]:
    try:
        datasets = importlib.import_module("datasets")
    except ImportError as error:
        raise MissingDependency("streaming from the hub needs datasets", hint="pip install 'rung[data]'") from error
    rows = datasets.load_dataset(
        repository, settings.subset or None, split=settings.split, revision=settings.revision, streaming=True
    )
    for number, values in enumerate(rows, 1):
        yield Row(f"{repository}/{settings.split}:{number}", values)
