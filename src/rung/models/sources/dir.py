"""`dir:PATH`: a local folder in the published layout (config.json, safetensors, tokenizer.json)."""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

from rung.base.settings import Field, Settings
from rung.models.cache import Cache
from rung.models.found import Found, folder_identity

__all__ = ["Dir"]


class DirSettings(Settings):
    """Which folder."""

    path: str = Field(min_length=1, description="the folder with the model's files")


class Dir:
    """A folder on this machine."""

    Settings: ClassVar[type[DirSettings]] = DirSettings

    def __init__(self, settings: DirSettings, cache: Cache) -> None:
        self._folder, self._cache = Path(settings.path).expanduser(), cache

    @staticmethod
    def parse(rest: str) -> DirSettings:
        """Settings from what follows the colon."""
        return DirSettings(path=rest)

    def find(self) -> Found:
        """The folder and the identity of its weights."""
        return Found(folder_identity(self._folder, self._cache), self._folder)
