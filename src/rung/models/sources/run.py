"""`run:PATH`: what a finished stage made: a whole model, or an adapter or whole weights on the base model that its
manifest names.

The manifest is checked against its files first. An adapter is merged in float32, so the network has no adapter left
and a new one can be trained on it. The manifest's `model.source` names the base; a base
that is a stage itself is followed (`run:../sft`), adapter upon adapter.
"""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import ClassVar

from rung.base.errors import ModelError
from rung.base.fingerprint import content_hash
from rung.base.lookup import lookup
from rung.base.settings import Field, Settings
from rung.models.cache import Cache
from rung.models.found import Found, folder_identity
from rung.records.manifest import Opened, open_manifest

__all__ = ["Run"]

LOCAL = ("run", "dir", "gguf")


class RunSettings(Settings):
    """Which stage's folder."""

    path: str = Field(min_length=1, description="the folder with the stage's manifest")


class Run:
    """The model that a stage of rung trained."""

    Settings: ClassVar[type[RunSettings]] = RunSettings

    def __init__(self, settings: RunSettings, cache: Cache) -> None:
        self._folder, self._cache = Path(settings.path).expanduser(), cache

    @staticmethod
    def parse(rest: str) -> RunSettings:
        """Settings from what follows the colon."""
        return RunSettings(path=rest)

    def find(self) -> Found:
        """The base with what the stage trained.

        Raises:
            DataError: no finished output, or files that changed since.
            ModelError: it trained no model, or its base cannot be found.
        """
        opened = open_manifest(self._folder)
        opened.verify()
        if any(info.role == "model" for info in opened.manifest.files):
            return self._whole(opened)
        base = self._base(opened)
        trained = {info.role: info for info in opened.manifest.files if info.role in ("adapter", "weights")}
        if not trained:
            raise ModelError(
                f"stage '{opened.manifest.name}' has no adapter and no weights",
                place=str(self._folder),
                hint="name the folder of a stage that trains, such as sft",
            )
        role = "weights" if "weights" in trained else "adapter"
        path = opened.file(role)
        return dataclasses.replace(
            base,
            content_id=content_hash([base.content_id, role, _hashes(opened, role)]),
            unjudged=f"trained on purpose by stage '{opened.manifest.name}'",
            notes=(*base.notes, f"{role} of stage '{opened.manifest.name}' applied"),
            weights=path if role == "weights" else base.weights,
            adapters=() if role == "weights" else (*base.adapters, path.parent),
        )

    def _whole(self, opened: Opened) -> Found:
        """A model that a stage made from nothing, published whole."""
        folder = opened.file("model").parent
        why = f"trained on purpose by stage '{opened.manifest.name}'"
        return Found(folder_identity(folder, self._cache), folder=folder, unjudged=why)

    def _base(self, opened: Opened) -> Found:
        source = str(opened.manifest.model.get("source", ""))
        kind, colon, rest = source.partition(":")
        if not colon:
            raise ModelError(
                "the manifest does not name the base model (model.source)",
                place=str(self._folder),
                hint="run the stage again with this version of rung",
            )
        if kind in LOCAL:
            # a manifest never holds a machine's path: a sibling stage is named from here
            rest = str(self._folder / rest)
        part = lookup("models.sources", kind, "model.source")
        found: Found = part(part.parse(rest), cache=self._cache).find()
        return found


def _hashes(opened: Opened, role: str) -> list[str]:
    return sorted(info.sha256 for info in opened.manifest.files if info.role == role)
