"""Merging: parent, recipe, profile, `--set`, each value remembering where it came from.

A layer's `stages` is either a list (the sequence of stages) or a mapping by stage name (settings laid over stages
that a lower layer named). A list takes the place of the parent's sequence; a stage of the same name and kind inherits
the parent's settings under its own.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import rung
from rung.base.errors import DataError, SettingsError
from rung.base.files import inside
from rung.base.settings import nearest
from rung.pipeline.yaml_source import KeyPath, Source, parse_value, read_source

__all__ = ["TOP_KEYS", "Layer", "merged_layers", "merged_values", "shipped_folders"]

TOP_KEYS = ("run", "extends", "model", "seed", "budget", "executor", "prices", "profile", "stages")
_VALUE_KEYS = ("run", "model", "seed", "budget", "executor", "prices")

_SETTABLE = _VALUE_KEYS[1:]


@dataclass
class Layer:
    """Values with their origins. `settings` maps stage names to what was said of them; `sequence` is None when this
    layer names no order. Origin paths start with a top key or with a stage's name."""

    values: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    sequence: list[tuple[str, str]] | None = None
    origins: dict[KeyPath, str] = field(default_factory=dict)


def shipped_folders() -> list[Path]:
    """Where recipes that come with rung lie: inside the package, and beside it in a checkout."""
    package = Path(rung.__file__).parent
    return [package / "recipes", package.parents[1] / "recipes"]


def merged_layers(path: Path, profile: str, sets: Sequence[str]) -> Layer:
    """Everything said about one recipe, merged in order.

    Raises:
        SettingsError: a file, key, profile or override that cannot be what was meant.
    """
    return _merged(_chain(path), profile, sets)


def merged_values(values: Mapping[str, Any], name: str, sets: Sequence[str]) -> Layer:
    """The same for a recipe that no file holds; `name` is said in its place.

    Raises:
        SettingsError: a key or override that cannot be what was meant.
    """
    return _merged([Source(name, dict(values), {})], "", sets)


def _merged(sources: list[Source], profile: str, sets: Sequence[str]) -> Layer:
    result = Layer()
    for source in sources:
        _merge(result, _file_layer(source))
    _apply_profile(result, sources, profile)
    for text in sets:
        _apply_set(result, text)
    return result


def _chain(path: Path) -> list[Source]:
    """The recipe and its ancestors, oldest first."""
    sources: list[Source] = []
    seen: list[Path] = []
    current: Path | None = path
    while current is not None:
        if current.resolve() in seen:
            names = " -> ".join(p.name for p in [*seen, current])
            raise SettingsError(f"recipes extend each other in a circle: {names}", place=f"{current.name}.extends")
        seen.append(current.resolve())
        source = read_source(current)
        sources.insert(0, source)
        current = _parent(current, source)
    return sources


def _parent(path: Path, source: Source) -> Path | None:
    name = source.values.get("extends")
    if name is None:
        return None
    if not isinstance(name, str) or not name:
        raise SettingsError(
            f"'extends' names one parent recipe, got {name!r:.60}",
            place=source.place(("extends",)),
            hint="extends: defaults",
        )
    folders = [path.parent, *shipped_folders()]
    try:
        found = [f for folder in folders for n in (name, f"{name}.yaml") if (f := inside(folder, n)).is_file()]
    except DataError as error:
        raise SettingsError(error.message, place=source.place(("extends",)), hint="extends: defaults") from error
    if not found:
        known = sorted({p.stem for folder in folders if folder.is_dir() for p in folder.glob("*.yaml")} - {path.stem})
        raise SettingsError(f"there is no recipe '{name}'", place=source.place(("extends",)), hint=nearest(name, known))
    return found[0]


def _file_layer(source: Source) -> Layer:
    for key in source.values:
        if key not in TOP_KEYS:
            raise SettingsError(f"unknown key '{key}'", place=source.place((key,)), hint=nearest(key, list(TOP_KEYS)))
    layer = Layer()
    for key in _VALUE_KEYS:
        if key in source.values:
            layer.values[key] = _value(key, source.values[key], source)
            _note(layer.origins, (key,), source.values[key], source, at=(key,), suffix="")
    stages = source.values.get("stages")
    if isinstance(stages, dict):
        _override(layer, source, stages, ("stages",), "")
    elif isinstance(stages, list):
        _sequence(layer, source, stages)
    elif stages is not None:
        raise SettingsError(
            f"'stages' is a list of stages, got {stages!r:.60}",
            place=source.place(("stages",)),
            hint="- sft: {data: scale}",
        )
    return layer


def _value(key: str, value: Any, source: Source | None = None) -> Any:
    """An executor named by a word alone is a mapping too, so that a layer above can set one thing of it; prices named
    by a file are what stands in it."""
    if key == "prices" and isinstance(value, str) and source is not None:
        try:
            return read_source(inside(source.folder, value)).values
        except DataError as error:
            raise SettingsError(error.message, place=source.place((key,)), hint="a file beside the recipe") from error
    return {"kind": value} if key == "executor" and isinstance(value, str) else value


def _sequence(layer: Layer, source: Source, stages: list[Any]) -> None:
    layer.sequence = []
    for index, entry in enumerate(stages):
        at = ("stages", str(index))
        kind, said = _entry(source, entry, at)
        name = said.pop("name", None) or kind.rpartition(":")[2].lower()
        if name in layer.settings:
            raise SettingsError(
                f"two stages are called '{name}'",
                place=source.place(at),
                hint=f"give one a name: {kind}: {{name: ...}}",
            )
        if not isinstance(name, str) or not name.replace("-", "").replace("_", "").isalnum() or name in TOP_KEYS:
            raise SettingsError(
                f"a stage cannot be called {name!r:.60}",
                place=source.place(at),
                hint=f"letters, digits, - and _; none of {', '.join(TOP_KEYS)}",
            )
        layer.sequence.append((name, kind))
        layer.settings[name] = said
        layer.origins[(name,)] = source.place(at)
        _note(layer.origins, (name,), said, source, at=(*at, kind), suffix="")


def _entry(source: Source, entry: Any, at: KeyPath) -> tuple[str, dict[str, Any]]:
    if isinstance(entry, str):
        return entry, {}
    if not isinstance(entry, dict) or len(entry) != 1:
        raise SettingsError(
            f"a stage is one key, its kind, with its settings; got {entry!r:.60}",
            place=source.place(at),
            hint="- sft: {name: first, data: scale}",
        )
    kind, said = next(iter(entry.items()))
    if said is not None and not isinstance(said, dict):
        raise SettingsError(
            f"the settings of '{kind}' are a mapping, got {said!r:.60}",
            place=source.place((*at, kind)),
            hint="{key: value}",
        )
    return kind, dict(said or {})


def _override(layer: Layer, source: Source, stages: Mapping[str, Any], at: KeyPath, suffix: str) -> None:
    for name, said in stages.items():
        if said is not None and not isinstance(said, dict):
            raise SettingsError(
                f"the settings of '{name}' are a mapping, got {said!r:.60}", place=source.place((*at, name))
            )
        layer.settings[name] = dict(said or {})
        _note(layer.origins, (name,), said or {}, source, at=(*at, name), suffix=suffix)


def _apply_profile(result: Layer, sources: list[Source], profile: str) -> None:
    known: set[str] = set()
    for source in sources:
        sections = source.values.get("profile") or {}
        if not isinstance(sections, dict):
            raise SettingsError(
                f"'profile' maps names to overrides, got {sections!r:.60}",
                place=source.place(("profile",)),
                hint="profile: {dev: {stages: {...}}}",
            )
        for name, section in sections.items():
            layer = _profile_layer(source, name, section or {})
            if name == profile:
                _check_names(result, layer, strict=source is sources[-1])
                _merge(result, layer)
        known |= set(sections)
    if profile and profile not in known:
        raise SettingsError(f"there is no profile '{profile}'", place="--profile", hint=nearest(profile, sorted(known)))


def _profile_layer(source: Source, name: str, section: Any) -> Layer:
    """Every profile is read, chosen or not, so that a typo in one is found before the day it is needed."""
    at, layer = ("profile", name), Layer()
    allowed = [*(k for k in _VALUE_KEYS if k != "run"), "stages"]
    if not isinstance(section, dict):
        raise SettingsError(f"a profile is a mapping, got {section!r:.60}", place=source.place(at), hint="{seed: 1}")
    for key, value in section.items():
        if key not in allowed:
            raise SettingsError(f"unknown key '{key}'", place=source.place((*at, key)), hint=nearest(key, allowed))
        if key != "stages":
            layer.values[key] = _value(key, value, source)
            _note(layer.origins, (key,), value, source, at=(*at, key), suffix=f" (profile {name})")
        elif isinstance(value, dict):
            _override(layer, source, value, (*at, key), f" (profile {name})")
        else:
            raise SettingsError(
                "a profile's 'stages' maps stage names to settings",
                place=source.place((*at, key)),
                hint="stages: {sft: {...}}",
            )
    return layer


def _apply_set(result: Layer, text: str) -> None:
    key, equals, raw = text.partition("=")
    path = tuple(key.strip().split("."))
    if not equals or not all(path):
        raise SettingsError(f"cannot read '{text}'", place="--set", hint="--set STAGE.KEY=VALUE or --set seed=1")
    layer, value = Layer(), parse_value(raw, f"--set {key}")
    known = [name for name, _ in result.sequence or []]
    if path[0] not in known and path[0] not in _SETTABLE:
        raise SettingsError(
            f"'{path[0]}' is neither a stage nor a top key",
            place=f"--set {key}",
            hint=nearest(path[0], [*known, *_SETTABLE]),
        )
    if path[0] in known and len(path) == 1:
        raise SettingsError(f"'{path[0]}' is a stage", place=f"--set {key}", hint=f"--set {path[0]}.KEY=VALUE")
    nested: Any = value
    for part in reversed(path[1:]):
        nested = {part: nested}
    (layer.settings if path[0] in known else layer.values)[path[0]] = _value(path[0], nested)
    layer.origins[path] = "--set"
    _merge(result, layer)


def _check_names(result: Layer, layer: Layer, *, strict: bool) -> None:
    """A profile may only speak of stages there are; one inherited from a parent may speak of more."""
    known = [name for name, _ in result.sequence or []]
    for name in [n for n in layer.settings if n not in known]:
        if strict:
            place = next((text for path, text in layer.origins.items() if path[0] == name), name)
            raise SettingsError(f"there is no stage '{name}'", place=place, hint=nearest(name, known))
        del layer.settings[name]


def _merge(below: Layer, above: Layer) -> None:
    if above.sequence is not None:
        kinds = dict(below.sequence or [])
        new = dict(above.sequence)
        kept = {n: s for n, s in below.settings.items() if n in new and kinds.get(n, new[n]) == new[n]}
        gone = [n for n in below.settings if n not in kept]
        below.settings, below.sequence = kept, above.sequence
        below.origins = {p: o for p, o in below.origins.items() if p[0] not in gone}
    elif below.sequence is not None:
        _check_names(below, above, strict=True)
    for target, values in ((below.values, above.values), (below.settings, above.settings)):
        _lay_over(target, values, below.origins, ())
    below.origins.update(above.origins)


def _lay_over(target: dict[str, Any], values: Mapping[str, Any], origins: dict[KeyPath, str], at: KeyPath) -> None:
    for key, value in values.items():
        path = (*at, key)
        if isinstance(value, dict) and isinstance(target.get(key), dict):
            _lay_over(target[key], value, origins, path)
            continue
        for old in [p for p in origins if p[: len(path)] == path]:
            del origins[old]
        target[key] = value


def _note(origins: dict[KeyPath, str], path: KeyPath, value: Any, source: Source, *, at: KeyPath, suffix: str) -> None:
    """Remember the origin of every leaf under `path`; lists are leaves."""
    if isinstance(value, dict) and value:
        for key, item in value.items():
            _note(origins, (*path, key), item, source, at=(*at, key), suffix=suffix)
    elif len(path) > 1 or path[0] in TOP_KEYS:
        origins[path] = source.place(at) + suffix
