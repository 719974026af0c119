"""The few-shot pool: typed instructions with good responses, read from YAML, drawn in balance across types."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import yaml

from rung.base.errors import DataError
from rung.base.turns import take_turns
from rung.datagen.wording import fold

__all__ = ["SOURCES", "Example", "Pool", "load_pool", "load_topics", "own_files"]

SOURCES = Path(__file__).parent / "sources"


@dataclass(frozen=True, slots=True)
class Example:
    """One entry of a pool."""

    type: str
    instruction: str
    response: str


class Pool:
    """Examples by type, in file order.

    Raises:
        DataError: no entries, or two whose instructions are the same after folding.
    """

    def __init__(self, name: str, examples: Sequence[Example]) -> None:
        self.name, self.examples = name, tuple(examples)
        if not self.examples:
            raise DataError("the pool has no entries", place=name)
        first: dict[str, int] = {}
        for number, example in enumerate(self.examples, 1):
            earlier = first.setdefault(fold(example.instruction), number)
            if earlier != number:
                raise DataError(
                    f"entry {number} repeats entry {earlier}: '{example.instruction[:60]}'",
                    place=name,
                    hint="texts must differ by more than case and punctuation",
                )

    @property
    def types(self) -> tuple[str, ...]:
        """The types, in order of first appearance."""
        return tuple(dict.fromkeys(example.type for example in self.examples))

    def of_type(self, kind: str) -> tuple[Example, ...]:
        """All examples of one type."""
        return tuple(example for example in self.examples if example.type == kind)

    def draw(self, count: int, random: Random, types: Iterable[str] = ()) -> list[Example]:
        """`count` different examples, as equal over the types (all, or those given) as `count` allows, in random order.

        Types take turns in an order drawn anew for each call, so that over many calls none is favoured; a type that
        runs out leaves its turns to the others.

        Raises:
            DataError: fewer than `count` examples, or an unknown type.
        """
        wanted = tuple(types) or self.types
        left = {kind: list(self.of_type(kind)) for kind in wanted}
        if missing := [kind for kind, entries in left.items() if not entries]:
            raise DataError(f"the pool has no type '{missing[0]}'", place=self.name, hint=f"it has: {self.types}")
        if sum(map(len, left.values())) < count:
            raise DataError(f"the pool cannot give {count} different examples of {wanted}", place=self.name)
        order = list(wanted)
        random.shuffle(order)
        for entries in left.values():
            random.shuffle(entries)
        drawn = take_turns([left[kind] for kind in order], count)
        random.shuffle(drawn)
        return drawn

    def shots(self, count: int, random: Random, kind: str, num_same_type: int) -> list[tuple[str, str]]:
        """Few-shot pairs for a response: `num_same_type` of `kind` when the pool has it, the rest over other types."""
        same = min(num_same_type, count, len(self.of_type(kind)))
        drawn = self.draw(same, random, [kind]) if same else []
        others = [name for name in self.types if name != kind] or list(self.types)
        drawn += self.draw(count - same, random, others) if count > same else []
        random.shuffle(drawn)
        return [(example.instruction, example.response) for example in drawn]


def load_pool(name: str) -> Pool:
    """A shipped pool by name (`few_shot_pool`, `small_pool`), or any YAML file by path (with a slash or `.yaml`).

    The file holds `entries`, each with `type`, `instruction` and `response`.

    Raises:
        DataError: the file is missing or not YAML, or an entry lacks a field; names entry and field.
    """
    values, place = _read(name)
    entries = values.get("entries") if isinstance(values, dict) else None
    if not isinstance(entries, list):
        raise DataError("a pool needs a list called 'entries'", place=place)
    return Pool(place, [_example(entry, f"{place}: entry {number}") for number, entry in enumerate(entries, 1)])


def load_topics(name: str = "topics") -> tuple[str, ...]:
    """The topics of a shipped list, or of a YAML file by path.

    Raises:
        DataError: the file is missing, not YAML, or holds no topics.
    """
    values, place = _read(name)
    topics = values.get("topics") if isinstance(values, dict) else None
    if not isinstance(topics, list) or not topics or not all(isinstance(topic, str) and topic for topic in topics):
        raise DataError("a topic file needs a list of texts called 'topics'", place=place)
    return tuple(dict.fromkeys(topics))


def own_files(named: Mapping[str, str]) -> dict[str, Path]:
    """Those of `named` (setting path -> pool or topics) that are a file by path and not shipped."""
    return {key: Path(name) for key, name in named.items() if _is_path(name)}


def _is_path(name: str) -> bool:
    return "/" in name or name.endswith((".yaml", ".yml"))


def _read(name: str) -> tuple[Any, str]:
    path = Path(name) if _is_path(name) else SOURCES / f"{name}.yaml"
    if not path.is_file():
        shipped = ", ".join(sorted(found.stem for found in SOURCES.glob("*.yaml")))
        raise DataError(f"there is no file for '{name}'", hint=f"shipped: {shipped}; or give a path that ends in .yaml")
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8")), path.name
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise DataError(f"not YAML: {error}", place=path.name) from error


def _example(entry: Any, place: str) -> Example:
    if not isinstance(entry, dict):
        raise DataError(f"an entry is a mapping, this is {entry!r:.60}", place=place)
    for field in ("type", "instruction", "response"):
        value = entry.get(field)
        if not isinstance(value, str) or not value.strip():
            raise DataError(f"'{field}' is missing or not a text", place=place, hint="numbers and yes/no need quotes")
    return Example(entry["type"].strip(), entry["instruction"].strip(), entry["response"].strip())
