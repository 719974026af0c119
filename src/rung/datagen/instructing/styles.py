"""The ways in which an instruction is put, read from a file and checked: styles, and the turns of a conversation."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.settings import nearest
from rung.datagen.templates import Template, placeholders, read_yaml, template

__all__ = ["STYLES", "TURNS", "Styles", "load_styles"]

STYLES = Path(__file__).parent / "styles.yaml"
TURNS = ("begin", "go_on", "sum_up")
FORMS = ("asks", "lines")
_BACK = re.compile(r"\b(?:it|its|then|that|your story|the story|the rest)\b", re.IGNORECASE)


@dataclass(frozen=True)
class Styles:
    """Templates by style, and by turn."""

    styles: Mapping[str, tuple[Template, ...]]
    turns: Mapping[str, tuple[Template, ...]]

    def only(self, names: Sequence[str], place: str) -> Styles:
        """The same with some styles alone; all of them where none is named.

        Raises:
            DataError: one that is not there.
        """
        for name in names:
            if name not in self.styles:
                raise DataError(f"there is no style '{name}'", place=place, hint=nearest(name, list(self.styles)))
        return Styles({name: self.styles[name] for name in names or self.styles}, self.turns)


def form_of(used: Template) -> str:
    """ "asks" or "lines", by the placeholder that the template has."""
    return next(form for form in FORMS if form in placeholders(used.text, used.name))


def load_styles(path: Path = STYLES) -> Styles:
    """Read a file: {styles: {name: [templates]}, turns: {begin, go_on, sum_up: [templates]}}.

    Raises:
        DataError: unreadable; a template with neither or both of {asks} and {lines}, or with any other placeholder; a
            later turn that refers to nothing said before.
    """
    values = read_yaml(path, "styles")
    styles, turns = _texts(values, "styles", path.name), _texts(values, "turns", path.name)
    if set(turns) != set(TURNS):
        raise DataError(f"turns are {', '.join(TURNS)}", place=path.name)
    found = {
        name: tuple(_style(t, f"{path.name}: {name}[{n}]", name) for n, t in texts) for name, texts in styles.items()
    }
    return Styles(found, {name: tuple(_turn(t, path.name, name) for _, t in texts) for name, texts in turns.items()})


def _texts(values: Mapping[str, Any], key: str, place: str) -> dict[str, list[tuple[int, Any]]]:
    said = values.get(key)
    if not isinstance(said, Mapping) or not all(isinstance(texts, list) and texts for texts in said.values()):
        raise DataError(f"'{key}' maps names to lists of templates", place=place)
    return {str(name): list(enumerate(texts)) for name, texts in said.items()}


def _style(text: Any, place: str, style: str) -> Template:
    found = placeholders(str(text), place)
    needed = [form for form in FORMS if form in found]
    if len(needed) == 2:
        raise DataError("a template has {asks} or {lines}, not both", place=place)
    return template(place, text, needed or ["asks"], style=style)


def _turn(text: Any, file: str, turn: str) -> Template:
    place = f"{file}: {turn}"
    used = template(place, text, () if turn == "sum_up" else ("asks",), style="conversation")
    if turn != "begin" and not _BACK.search(used.text):
        raise DataError("a later turn has to refer to what was said before", place=place, hint="it, the story, then")
    return used
