"""Python's own standard library, which is on every machine that runs rung: a corpus of code with a known licence.

Source files only (no tests unless asked for, no installed packages). Each file is a piece, named by its module path;
its licence is the one its head names, else the library's own (PSF-2.0).
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import ClassVar

from rung.base.errors import DataError
from rung.base.settings import Field, Settings
from rung.datagen.corpus_reading import Layout, Row, read_rows
from rung.datagen.corpus_source import Found, Piece, content_of_file, files_below
from rung.datagen.languages import language_of, licence_in
from rung.records.types import Drop

__all__ = ["StandardLibrary"]

_LICENCE = "PSF-2.0"
_FOREIGN = ("site-packages/", "dist-packages/", "__pycache__/", "lib2to3/tests/data/", "config-")
_TESTS = ("test/", "tests/", "idle_test/", "idlelib/idle_test/")


class StandardLibrarySettings(Settings):
    """How much of it."""

    tests: bool = Field(False, description="whether its tests are part of it: half as much again")
    modules: tuple[str, ...] = Field((), description="packages or files at the top that are read, such as json; all")


class StandardLibrary:
    """The library of the running Python; another version of Python is another corpus."""

    Settings: ClassVar[type[StandardLibrarySettings]] = StandardLibrarySettings

    def __init__(self, settings: StandardLibrarySettings) -> None:
        self.settings = settings

    def pieces(self) -> list[Piece]:
        """Its files, by name.

        Raises:
            DataError: none of the modules asked for is there.
        """
        found = [(n, p) for n, p in files_below(Path(os.__file__).parent, (".py",)) if self._wanted(n)]
        if not found:
            raise DataError(f"the standard library has none of {self.settings.modules}", place="standard_library")
        return [Piece(name, content_of_file(path), partial(_read, name, path)) for name, path in found]

    def _wanted(self, name: str) -> bool:
        top, chosen = name.split("/")[0].removesuffix(".py"), self.settings.modules
        if name.startswith(_FOREIGN) or "__pycache__/" in name or (chosen and top not in chosen):
            return False
        return self.settings.tests or not any(name.startswith(t) or f"/{t}" in name for t in _TESTS)


def _read(name: str, path: Path) -> Iterator[Found | Drop]:
    for row in read_rows(path, name, Layout()):
        if isinstance(row, Row):
            text = row.values["text"]
            yield Found(row.place, text, licence_in(text) or _LICENCE, language_of(name))
        else:
            yield row
