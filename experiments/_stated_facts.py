"""Sentences that state facts, made from seeded templates, with the facts and the schema that an answer must fit."""

from __future__ import annotations

import random
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

__all__ = ["KINDS", "Kind", "Stated", "stated_facts"]

_NAMES = ("Amira", "Bruno", "Chen", "Dalia", "Eero", "Farah", "Goran", "Hana", "Idris", "Jonna", "Kofi", "Lucia")
_CITIES = ("Lisbon", "Nairobi", "Oslo", "Quito", "Hanoi", "Prague", "Dakar", "Perth", "Tunis", "Lima")
_MONTHS = ("January", "March", "April", "June", "August", "October", "December")
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday")


@dataclass(frozen=True, slots=True)
class Kind:
    """What is stated: by field what it may be and what JSON type it has, and ways to say all of it in a sentence."""

    name: str
    values: Mapping[str, tuple[Any, ...]]
    patterns: tuple[str, ...]

    def schema(self) -> dict[str, Any]:
        """An object with all fields in order; few texts are an enumeration."""
        properties = {name: _schema(name, values) for name, values in self.values.items()}
        return {"type": "object", "properties": properties, "required": [*properties]}


@dataclass(frozen=True, slots=True)
class Stated:
    """A sentence with its facts; `family` is the pattern it was made from."""

    id: str
    family: str
    kind: Kind
    sentence: str
    facts: Mapping[str, Any]


_CLOSED = ("species", "month", "weekday", "size")
_YES = {True: "yes", False: "no"}
KINDS = (
    Kind(
        "person",
        {"name": _NAMES, "age": tuple(range(19, 80)), "city": _CITIES, "job": ("nurse", "baker", "pilot", "teacher")},
        (
            "{name} is {age} years old, lives in {city} and works as a {job}.",
            "A {job} from {city}, {name} turned {age} last week.",
            "In {city} we met {name}, a {age}-year-old {job} with two sisters.",
            "Working as a {job}, {name}, who is {age}, never left {city}.",
        ),
    ),
    Kind(
        "order",
        {"product": ("lamps", "chairs", "mugs", "rugs"), "count": tuple(range(2, 60)), "price": tuple(range(5, 400)),
         "express": (True, False)},
        (
            "Order of {count} {product} at {price} dollars each. Express delivery: {express}.",
            "We sell {product} for {price} dollars; this customer wants {count} of them (express: {express}).",
            "Express: {express}. Please send {count} {product}, {price} dollars a piece, to our 3 shops.",
            "For {price} dollars each, {count} {product} were ordered. Should they go express? {express}.",
        ),
    ),
    Kind(
        "trip",
        {"origin": _CITIES, "destination": _CITIES, "month": _MONTHS, "nights": tuple(range(2, 30))},
        (
            "The trip goes from {origin} to {destination} in {month} and takes {nights} nights.",
            "In {month} she flies to {destination}, starting in {origin}, and stays {nights} nights.",
            "{nights} nights in {destination}: we leave {origin} early in {month}.",
            "Starting point {origin}, aim {destination}, time of year {month}, length {nights} nights, 4 people.",
        ),
    ),
    Kind(
        "animal",
        {"name": _NAMES, "species": ("cat", "dog", "horse", "parrot"), "weight": tuple(range(2, 90)),
         "vaccinated": (True, False)},
        (
            "{name} is a {species} that weighs {weight} kilograms. Vaccinated: {vaccinated}.",
            "Our {species} {name} weighs {weight} kilograms; has it been vaccinated? {vaccinated}.",
            "The vet saw a {species} of {weight} kilograms called {name} (vaccinated: {vaccinated}) in room 7.",
            "Vaccinated: {vaccinated}. The {species}, {name}, brings {weight} kilograms to the scales.",
        ),
    ),
    Kind(
        "meeting",
        {"topic": ("budget", "hiring", "safety", "design"), "weekday": _DAYS, "hour": tuple(range(8, 19)),
         "online": (True, False)},
        (
            "The meeting about {topic} is on {weekday} at {hour} o'clock. Online: {online}.",
            "On {weekday} at {hour} o'clock we talk about {topic} (online: {online}).",
            "{topic} is the topic; come on {weekday}, {hour} o'clock, floor 2. Is it online? {online}.",
            "Online: {online}. {weekday}, {hour} o'clock, all about {topic}.",
        ),
    ),
)  # fmt: skip


def stated_facts(count: int, seed: int) -> list[Stated]:
    """`count` sentences, kinds and patterns in turn; the same seed gives the same."""
    draw, found = random.Random(seed), list[Stated]()
    for number in range(count):
        kind = KINDS[number % len(KINDS)]
        place = number // len(KINDS) % len(kind.patterns)
        facts = {name: draw.choice(values) for name, values in kind.values.items()}
        while "origin" in facts and facts["origin"] == facts["destination"]:
            facts["origin"] = draw.choice(kind.values["origin"])
        said = {name: _YES[value] if isinstance(value, bool) else value for name, value in facts.items()}
        sentence = kind.patterns[place].format(**said)
        found.append(Stated(str(number), f"{kind.name}-{place}", kind, sentence, facts))
    return found


def _schema(name: str, values: tuple[Any, ...]) -> dict[str, Any]:
    if isinstance(values[0], bool):
        return {"type": "boolean"}
    if isinstance(values[0], int):
        return {"type": "integer", "minimum": 0, "maximum": 999}
    return {"enum": [*values]} if name in _CLOSED else {"type": "string", "maxLength": 40}
