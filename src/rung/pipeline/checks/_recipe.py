"""From a recipe to the subject of its audit: its model, its finished data, its suite and its settings."""

from __future__ import annotations

import importlib
import pkgutil
import typing
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import rung
from rung.base.errors import SettingsError
from rung.base.lookup import known, lookup, part
from rung.base.settings import Settings, validate
from rung.datagen.generators.responses import Responses
from rung.pipeline.checks._subject import Subject, from_pool, from_records
from rung.pipeline.recipe import Recipe
from rung.pipeline.stages._model import room
from rung.records.manifest import FILE_NAME, open_manifest
from rung.records.types import SftRecord, TestItem
from rung.train.settings import AdapterSettings, SftSettings

__all__ = ["open_subject", "settings_classes"]

_ROOMS_OF_PARTS = ("scoring.", "search.", "datagen.", "evaluate.", "train.")


def open_subject(recipe: Recipe, runs_folder: Path) -> Subject:
    """Load the recipe's model in float32, where tolerances mean something, and read what its run has finished.

    Raises:
        SettingsError: the recipe names no model.
        ModelError: the model cannot be loaded.
        DataError: finished data that cannot be read.
    """
    if not recipe.model:
        raise SettingsError(
            "the recipe names no model to audit", place="model", hint="add model: package:NAME, or hf:ORG/NAME"
        )
    loaded = room("models.load").load(recipe.model, precision="float32", strict=False, clean=False)
    training = next((found for found in _values(recipe, SftSettings)), SftSettings())
    fields: dict[str, Any] = {
        "held_out": _held_out(recipe),
        "settings_classes": settings_classes(recipe),
        "max_tokens": training.max_tokens,
        "adapter": next((found for found in _values(recipe, AdapterSettings)), AdapterSettings()),
        "responses": _responses(recipe),
    }
    stage, records = _finished_data(recipe, runs_folder / recipe.run)
    if not records:
        return from_pool(loaded, **fields)
    return from_records(loaded, records, f"{len(records)} records of stage '{stage}'", **fields)


def settings_classes(recipe: Recipe) -> tuple[type[Settings], ...]:
    """The settings of the recipe's stages, of whatever is nested in them, and of every part that a value could name:
    a name in two registries stands for both, and `module:Name` for the user's own class."""
    found: dict[type[Settings], None] = {}
    for spec in recipe.stages:
        _add(found, spec.stage.Settings)
        for name in _names(spec.settings):
            for named in _parts_called(name):
                _add(found, getattr(named, "Settings", None))
    return tuple(found)


def _add(found: dict[type[Settings], None], model: Any) -> None:
    if not (isinstance(model, type) and issubclass(model, Settings)) or model in found:
        return
    found[model] = None
    for spec in model.model_fields.values():
        for inner in _within(spec.annotation):
            _add(found, inner)


def _within(hint: Any) -> Iterator[Any]:
    yield hint
    for argument in typing.get_args(hint):
        yield from _within(argument)


def _names(value: Any) -> Iterator[str]:
    """Every string in the settings, and every `kind` of a part."""
    if isinstance(value, str):
        yield value
    for inner in value.values() if isinstance(value, dict) else value if isinstance(value, (list, tuple)) else ():
        yield from _names(inner)


def _parts_called(name: str) -> list[Any]:
    if name.replace(".", "").replace("_", "").replace(":", "").isalnum() and name.count(":") == 1:
        return _users_own(name)
    return [lookup(folder, name) for folder in _registries() if name in known(folder)]


def _users_own(name: str) -> list[Any]:
    """A user's class; a string that only looks like one (`kind:rest`) names nothing."""
    try:
        return [lookup("", name)]
    except SettingsError:
        return []


def _registries() -> list[str]:
    """The folders of parts: packages inside rooms whose modules each export one class with settings."""
    rooms = [info.name for info in pkgutil.iter_modules(rung.__path__) if info.ispkg]
    inside = [
        f"{name}.{info.name}"
        for name in rooms
        for info in pkgutil.iter_modules(importlib.import_module(f"rung.{name}").__path__)
        if info.ispkg
    ]
    return [folder for folder in inside if folder.startswith(_ROOMS_OF_PARTS)]


def _values(recipe: Recipe, kind: type[Any]) -> Iterator[Any]:
    """Every setting of that type directly below a stage's settings."""
    for spec in recipe.stages:
        settings = spec.stage.settings
        yield from (value for value in vars(settings).values() if isinstance(value, kind))


def _responses(recipe: Recipe) -> Responses.Settings:
    """How the recipe's first stage that generates responses prompts for them, where it does so with rung's own part."""
    for spec in recipe.stages:
        said = spec.settings.get("responses")
        if said is not None:
            kind, settings = part("datagen.generators", said, f"{spec.name}.responses")
            if kind is Responses:
                return validate(Responses.Settings, settings.model_dump(), f"{spec.name}.responses")
    return Responses.Settings()


def _held_out(recipe: Recipe) -> tuple[TestItem, ...]:
    """All items of every suite that the recipe names."""
    items: dict[str, TestItem] = {}
    for spec in recipe.stages:
        said = spec.settings.get("suite")
        if said:
            kind, settings = part("evaluate.suites", said, f"{spec.name}.suite")
            items.update({item.id: item for item in kind(settings).items()})
    return tuple(items.values())


def _finished_data(recipe: Recipe, folder: Path) -> tuple[str, list[SftRecord]]:
    """The training records that a stage of the recipe reads, or else the last finished ones."""
    trained = [spec.inputs["data"] for spec in recipe.stages if "data" in spec.inputs]
    makers = [spec.name for spec in reversed(recipe.stages) if "sft" in spec.stage.outputs.values()]
    for name in dict.fromkeys([*trained, *makers]):
        if name in makers and (folder / name / FILE_NAME).is_file():
            opened = open_manifest(folder / name)
            outputs = recipe.spec(name).stage.outputs
            output = next(key for key, kind in outputs.items() if kind == "sft")
            if records := list(opened.records(output)):
                return name, records
    return "", []
