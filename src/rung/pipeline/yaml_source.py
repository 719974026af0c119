"""Reading a recipe's YAML: plain values, and for every key the line it stands on.

PyYAML alone keeps neither lines nor the second of two equal keys, and reads `1e-4` as text; all three matter here.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rung.base.errors import SettingsError

__all__ = ["KeyPath", "Source", "parse_value", "read_source"]

KeyPath = tuple[str, ...]


@dataclass(frozen=True)
class Source:
    """One YAML file: its values, and the line (from 1) of every key and list item, by path."""

    name: str
    values: dict[str, Any]
    lines: dict[KeyPath, int]
    folder: Path = Path()

    def place(self, path: KeyPath) -> str:
        """`file:line` of the deepest part of `path` that the file has."""
        for length in range(len(path), 0, -1):
            if path[:length] in self.lines:
                return f"{self.name}:{self.lines[path[:length]]}"
        return self.name


class _Loader(yaml.SafeLoader):
    """SafeLoader that takes `1e-4` for a number, as everybody who writes it means."""


_Loader.add_implicit_resolver(
    "tag:yaml.org,2002:float", re.compile(r"^[-+]?\d+(\.\d*)?[eE][-+]?\d+$"), list("-+0123456789")
)


def read_source(path: Path) -> Source:
    """Read one recipe file.

    Raises:
        SettingsError: missing, not YAML (line and column named), a key twice, or not a mapping.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise SettingsError(f"cannot read the recipe: {error}", place=path.name, hint="check the path") from error
    loader = _Loader(text)
    lines: dict[KeyPath, int] = {}
    try:
        node = loader.get_single_node()
        values = _build(loader, node, (), lines, path.name) if node is not None else {}
    except yaml.YAMLError as error:
        raise _syntax_error(path.name, error) from error
    finally:
        loader.dispose()
    if not isinstance(values, dict):
        raise SettingsError(
            f"a recipe is a mapping of keys, this is a {type(values).__name__}",
            place=path.name,
            hint="start with `run: NAME`",
        )
    return Source(path.name, values, lines, path.parent)


def parse_value(text: str, place: str) -> Any:
    """The value of a `--set key=text`, read as YAML.

    Raises:
        SettingsError: it is not YAML.
    """
    try:
        return yaml.load(text, _Loader)
    except yaml.YAMLError as error:
        raise SettingsError(f"not a value: {text!r:.60}", place=place, hint="quote it as YAML would need it") from error


def _syntax_error(name: str, error: yaml.YAMLError) -> SettingsError:
    mark = getattr(error, "problem_mark", None)
    where = f"{name}:{mark.line + 1}:{mark.column + 1}" if mark else name
    problem = getattr(error, "problem", None) or str(error)
    return SettingsError(f"not valid YAML: {problem}", place=where, hint="check indentation, colons and quotes there")


def _build(loader: _Loader, node: yaml.Node, path: KeyPath, lines: dict[KeyPath, int], name: str) -> Any:
    if isinstance(node, yaml.MappingNode):
        found: dict[str, Any] = {}
        for key_node, value_node in node.value:
            key = str(loader.construct_object(key_node))
            line = key_node.start_mark.line + 1
            if key in found:
                raise SettingsError(
                    f"key '{key}' stands twice, first on line {lines[(*path, key)]}",
                    place=f"{name}:{line}",
                    hint="keep one of the two",
                )
            lines[(*path, key)] = line
            found[key] = _build(loader, value_node, (*path, key), lines, name)
        return found
    if isinstance(node, yaml.SequenceNode):
        items = []
        for index, item in enumerate(node.value):
            lines[(*path, str(index))] = item.start_mark.line + 1
            items.append(_build(loader, item, (*path, str(index)), lines, name))
        return items
    return loader.construct_object(node)
