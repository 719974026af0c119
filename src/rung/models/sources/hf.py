"""`hf:org/name` or `hf:org/name@revision`: a model on the Hugging Face hub, kept in the hub's own cache.

Without a network, what was fetched before is used; a local folder may be named too. Pickled weights and code that
comes with a model are never fetched.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar

import huggingface_hub
from huggingface_hub import errors

from rung.base.errors import ModelError
from rung.base.settings import Field, Settings
from rung.models.cache import Cache
from rung.models.found import Found, folder_identity

__all__ = ["Hf"]

WANTED = ["*.json", "*.safetensors", "*.jinja", "tokenizer.model"]


class HfSettings(Settings):
    """Which repository and which revision of it."""

    name: str = Field(min_length=1, description="org/name, or a local folder")
    revision: str = Field("main", min_length=1, description="branch, tag or commit")


class Hf:
    """A repository on the hub, or a local copy of one."""

    Settings: ClassVar[type[HfSettings]] = HfSettings

    def __init__(self, settings: HfSettings, cache: Cache) -> None:
        self._settings, self._cache = settings, cache

    @staticmethod
    def parse(rest: str) -> HfSettings:
        """Settings from what follows the colon."""
        name, at, revision = rest.rpartition("@")
        return HfSettings(name=name, revision=revision) if at else HfSettings(name=rest)

    def find(self) -> Found:
        """The folder with the fetched files.

        Raises:
            ModelError: no such repository, no network, or no permission.
        """
        local = Path(self._settings.name).expanduser()
        folder = local if local.is_dir() else self._fetched()
        return Found(folder_identity(folder, self._cache), folder)

    def _fetched(self) -> Path:
        name, revision = self._settings.name, self._settings.revision
        place = f"hf:{name}@{revision}"
        try:
            return Path(
                huggingface_hub.snapshot_download(name, revision=revision, allow_patterns=WANTED, etag_timeout=10)
            )
        except errors.GatedRepoError as error:
            raise ModelError("the model needs its licence accepted", place=place, hint="hf auth login") from error
        except (errors.RepositoryNotFoundError, errors.RevisionNotFoundError, errors.HFValidationError) as error:
            raise ModelError(
                f"there is no such model or revision ({type(error).__name__})",
                place=place,
                hint="check the name; a private model needs: hf auth login",
            ) from error
        except Exception as error:  # the hub's client has changed its HTTP library, so its errors have no common name
            raise ModelError(
                f"the hub cannot be reached and the model was not fetched before ({type(error).__name__})",
                place=place,
                hint="connect once, or use dir:PATH, gguf:PATH or package:NAME",
            ) from error
