"""`gguf:PATH`: a GGUF file, unpacked to float32 and kept in the cache, because packed weights cannot be trained."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rung.base.errors import ModelError
from rung.base.settings import Field, Settings
from rung.models.cache import Cache
from rung.models.found import Found
from rung.models.gguf_format.convert import converted

__all__ = ["Gguf"]


class GgufSettings(Settings):
    """Which file."""

    path: str = Field(min_length=1, description="the .gguf file")


class Gguf:
    """A GGUF file on this machine."""

    Settings: ClassVar[type[GgufSettings]] = GgufSettings

    def __init__(self, settings: GgufSettings, cache: Cache) -> None:
        self._path, self._cache = Path(settings.path).expanduser(), cache

    @staticmethod
    def parse(rest: str) -> GgufSettings:
        """Settings from what follows the colon."""
        return GgufSettings(path=rest)

    def find(self) -> Found:
        """The converted folder; slow the first time.

        Raises:
            ModelError: no such file, damaged, or not convertible.
        """
        if not self._path.is_file():
            raise ModelError("there is no such file", place=str(self._path), hint="check the path after 'gguf:'")
        source_hash = self._cache.hash_of(self._path)
        folder = converted(source_hash, self._path, self._cache)
        return Found(source_hash, folder, notes=("unpacked from GGUF: quantisation error of the file remains",))
