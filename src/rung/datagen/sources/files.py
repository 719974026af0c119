"""Files of the user's: a file or a folder of text, JSON lines, CSV, TSV or Parquet, plain or compressed (.gz, .zst).

A folder of programs is a folder of texts: `language` of a file follows from its ending where no field says it. A file
of text is one document, or several with a `separator` line between them.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from rung.base.settings import Field, Settings
from rung.datagen.corpus_reading import Layout, Row, read_rows
from rung.datagen.corpus_source import Found, Piece, content_of_file, files_below
from rung.datagen.languages import language_of
from rung.records.types import Drop

__all__ = ["Files"]


class FilesSettings(Settings):
    """Where they are, and which fields say what."""

    path: Path = Field(description="a file, or a folder that is read whole, by name")
    endings: tuple[str, ...] = Field((), description="endings of names in a folder that are read, such as .py; all")
    text_field: str = Field("text", min_length=1, description="the field that holds the text")
    separator: str = Field("", description="a line between two documents of a text file; empty: a file is one")
    licence_field: str = Field("", description="the field that holds the licence")
    licence: str = Field("", description="the licence of all of it, where no field says one")
    language_field: str = Field("", description="the field that holds the language")
    language: str = Field("", description="the language of all of it, where neither field nor file ending says one")
    longest: int = Field(1 << 24, ge=1 << 10, description="bytes of a line; a longer one is dropped and counted")


class Files:
    """A source of local files; each is a piece."""

    Settings: ClassVar[type[FilesSettings]] = FilesSettings

    def __init__(self, settings: FilesSettings) -> None:
        self.settings = settings

    def pieces(self) -> list[Piece]:
        """The files, by name."""
        found = files_below(self.settings.path, self.settings.endings)
        return [Piece(name, content_of_file(path), partial(self._read, name, path)) for name, path in found]

    def _read(self, name: str, path: Path) -> Iterator[Found | Drop]:
        s = self.settings
        fields = tuple(f for f in (s.text_field, s.licence_field, s.language_field) if f)
        language = s.language or language_of(name)
        for row in read_rows(path, name, Layout(s.separator, s.longest, fields)):
            yield self._found(row, language) if isinstance(row, Row) else row

    def _found(self, row: Row, language: str) -> Found:
        s, values = self.settings, row.values
        return Found(
            row.place,
            values.get(s.text_field),
            str(values.get(s.licence_field) or s.licence),
            str(values.get(s.language_field) or language),
        )
