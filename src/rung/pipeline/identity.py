"""Identity of a stage's output: known for the whole recipe before any work, since it needs only the recipe."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from rung.base.errors import DataError
from rung.base.fingerprint import content_hash, differing, hash_file
from rung.base.seeds import derive
from rung.pipeline.outputs import begun_identity
from rung.pipeline.recipe import Recipe
from rung.records.manifest import FILE_NAME, Manifest, Opened, identity_text, open_manifest

__all__ = ["MODEL_INPUT", "Identity", "content_of", "identities", "stage_drift"]

MODEL_INPUT = "model"


@dataclass(frozen=True, slots=True)
class Identity:
    """What an output is: the text that is hashed, its parents, and the stage's own seed."""

    text: str
    parents: Mapping[str, str]
    seed: int

    @property
    def fingerprint(self) -> str:
        """SHA-256 of the text."""
        return content_hash(self.text.encode())


def identities(recipe: Recipe, identify_model: Callable[[str], str]) -> dict[str, Identity]:
    """Identity by stage name, in order.

    Args:
        recipe: resolved.
        identify_model: model source -> what it is, wherever it lies (a file's path is not an identity).

    Raises:
        DataError: a file that a setting names is not there.
    """
    found: dict[str, Identity] = {}
    for spec in recipe.stages:
        parents = {name: found[target].fingerprint for name, target in spec.inputs.items()}
        known_by = spec.stage.known_by()
        if spec.stage.uses_model:
            assert MODEL_INPUT not in parents, f"{spec.kind} names an input '{MODEL_INPUT}': that is the recipe's model"
            parents[MODEL_INPUT] = known_by.model or identify_model(recipe.model)
        parents |= {f"file:{key}": _hash_of(path, f"{spec.name}.{key}") for key, path in spec.stage.files().items()}
        seed = derive(recipe.seed, spec.name)
        text = identity_text(spec.kind, spec.stage.version, dict(known_by.settings), parents, seed)
        found[spec.name] = Identity(text, parents, seed)
    return found


def _hash_of(path: Path, place: str) -> str:
    if not path.is_file():
        raise DataError(f"there is no file '{path}'", place=place, hint="check the path, from where rung is started")
    return hash_file(path)


def stage_drift(folder: Path, identity: str) -> list[str]:
    """Fields in which what lies in a stage's folder, finished or begun, differs from `identity`: `path: old -> new`.

    Raises:
        DataError: its manifest cannot be read.
    """
    finished = (folder / FILE_NAME).is_file()
    old = open_manifest(folder).manifest.identity if finished else begun_identity(folder)
    return differing(json.loads(old), json.loads(identity)) if old and old != identity else []


def content_of(opened: Opened) -> str:
    """Hash over everything a reader of this output can see: its records and its files. Two outputs of one identity
    differ here when the work is not deterministic."""
    manifest: Manifest = opened.manifest
    shards = {name: [info.records_sha256 for info in infos] for name, infos in manifest.shards.items()}
    return content_hash({"shards": shards, "files": {file.name: file.sha256 for file in manifest.files}})
