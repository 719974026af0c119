"""What a story can be asked to have: dialogue, a moral, a twist, each with the words in which it shows.

A feature is an entry of a YAML file (`features.yaml` is the shipped one): how it is asked for, which other features it
goes badly with, and a pattern of its evidence. The evidence is of words, not of sense: "in the end they learned" speaks
for a moral, whatever was learned. A feature without a pattern is asked for and never checked.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from rung.base.errors import DataError
from rung.base.settings import nearest

__all__ = ["FEATURES", "Feature", "Features", "load_features"]

FEATURES = Path(__file__).parent / "features.yaml"


@dataclass(frozen=True, slots=True)
class Feature:
    """One thing to ask for: `asked` completes "the story has ...", `shows` is the pattern of its evidence or None."""

    name: str
    asked: str
    conflicts: frozenset[str]
    shows: re.Pattern[str] | None

    def in_text(self, text: str) -> bool:
        """Whether the text shows it; a feature that cannot be checked is never missing."""
        return self.shows is None or self.shows.search(text) is not None


class Features(Mapping[str, Feature]):
    """The features of a file by name.

    Raises:
        DataError: a conflict with a feature that is not there.
    """

    def __init__(self, name: str, features: Sequence[Feature]) -> None:
        self.name = name
        self._by_name = {feature.name: feature for feature in features}
        for feature in features:
            for other in feature.conflicts - self._by_name.keys():
                hint = nearest(other, list(self._by_name))
                raise DataError(f"'{feature.name}' conflicts with '{other}', which is not there", place=name, hint=hint)

    def __getitem__(self, name: str) -> Feature:
        return self._by_name[name]

    def __iter__(self) -> Any:
        return iter(self._by_name)

    def __len__(self) -> int:
        return len(self._by_name)

    def conflict(self, names: Sequence[str]) -> tuple[str, str] | None:
        """The first two of `names` that go badly together."""
        pairs = ((one, other) for place, one in enumerate(names) for other in names[place + 1 :])
        return next((pair for pair in pairs if self._apart(*pair)), None)

    def draw(self, count: int, random: Random) -> tuple[str, ...]:
        """Up to `count` features that go together, in an order of their own."""
        drawn: list[str] = []
        for name in random.sample(list(self._by_name), len(self._by_name)):
            if len(drawn) < count and not any(self._apart(name, other) for other in drawn):
                drawn.append(name)
        return tuple(drawn)

    def shown(self, text: str) -> tuple[str, ...]:
        """The features that have a pattern and show in the text."""
        return tuple(one.name for one in self._by_name.values() if one.shows is not None and one.in_text(text))

    def _apart(self, one: str, other: str) -> bool:
        return other in self._by_name[one].conflicts or one in self._by_name[other].conflicts


def load_features(path: Path = FEATURES) -> Features:
    """Read a file: name -> {asked, conflicts (optional), shows (optional, a pattern without case)}.

    Raises:
        DataError: unreadable, an entry of another form, a pattern that does not compile; names the entry.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read the features: {error}", place=path.name) from error
    if not isinstance(values, Mapping) or not values:
        raise DataError("features are a mapping from names to entries", place=path.name)
    return Features(path.name, [_feature(str(name), entry, path.name) for name, entry in values.items()])


def _feature(name: str, entry: Any, place: str) -> Feature:
    if not isinstance(entry, Mapping) or not isinstance(entry.get("asked"), str):
        raise DataError(f"the feature '{name}' does not say how it is asked for", place=place, hint="asked: a dialogue")
    if unknown := sorted(entry.keys() - {"asked", "conflicts", "shows"}):
        hint = nearest(unknown[0], ["asked", "conflicts", "shows"])
        raise DataError(f"the feature '{name}' has an unknown key '{unknown[0]}'", place=place, hint=hint)
    try:
        shows = re.compile(entry["shows"], re.IGNORECASE) if entry.get("shows") else None
    except re.error as error:
        raise DataError(f"the pattern of '{name}' does not compile: {error}", place=place) from error
    return Feature(name, entry["asked"], frozenset(entry.get("conflicts", ())), shows)
