"""Completers from configuration: `{kind: local}`, `{kind: served}`, `{kind: hosted, ...}`, `{kind: scripted, ...}`, or
a user's own.

A kind is a file in engine/completers: a class with `Settings`, made from them, whose `open` gives the completer.
Checking a recipe needs `opener` alone; only opening brings torch or a provider's packages.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any, Protocol, runtime_checkable

from rung.base.errors import SettingsError
from rung.base.events import Events
from rung.base.lookup import part
from rung.base.prices import Price
from rung.engine.hosted.purse import Wallet
from rung.records.contracts import Capabilities, Completer

__all__ = ["FOLDER", "Described", "Describes", "Opener", "Surroundings", "open_completer", "opener"]

FOLDER = "engine.completers"


@dataclass(frozen=True, slots=True)
class Surroundings:
    """What a completer gets from whoever opens it.

    `model` is the source of a local one that names none; `load` turns a source into a loaded model (the clean loader
    when None); `on_step` is called with numbers of new tokens, and what it raises ends the work. `wallet` pays for
    requests, and `prices` are the recipe's.
    """

    model: str = ""
    load: Callable[[str], Any] | None = None
    events: Events = field(default_factory=Events)
    on_step: Callable[[int], None] | None = None
    wallet: Wallet | None = None
    prices: Mapping[str, Price] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Described:
    """What the settings of a completer say about it, before it is opened.

    `able` is what it promises to do. `identity` are the settings that decide answers: they are part of the fingerprint
    of whatever it makes; addresses of our own machines, limits and prices are not. `text`: it continues bare text, and
    not only messages. `paid_model` is the name to look up in a price table, empty where nothing is charged; `price` is
    the one in its own settings. `same_weights`: it answers with the very weights of the recipe's model, and proves that
    when it is opened.
    """

    able: Capabilities
    identity: Mapping[str, Any]
    text: bool = True
    paid_model: str = ""
    price: Price | None = None
    same_weights: bool = False


class Opener(Protocol):
    """A kind of completer with its settings."""

    def open(self, around: Surroundings) -> Completer:
        """The completer, ready for use."""


@runtime_checkable
class Describes(Protocol):
    """An opener that a recipe may name as a stage's completer."""

    def described(self) -> Described:
        """What can be said without opening it."""

    def open(self, around: Surroundings) -> Completer:
        """The completer, ready for use."""


def opener(spec: str | dict[str, Any], place: str = "completer") -> Describes:
    """The kind that `spec` names, with its settings, for use as a stage's completer.

    Raises:
        SettingsError: an unknown kind, a setting that is wrong, or a kind that cannot be described.
    """
    kind, settings = part(FOLDER, spec, place)
    made = kind(settings)
    if not isinstance(made, Describes):
        raise SettingsError(
            f"'{kind.__name__}' does not describe itself, so a stage cannot know what it would get",
            place=place,
            hint="give it a method described() that returns rung.engine.opening.Described",
        )
    return made


def open_completer(
    spec: str | dict[str, Any], around: Surroundings | None = None, place: str = "completer"
) -> Completer:
    """The completer that `spec` (a kind's name, or `{kind: NAME, ...settings}`) describes.

    Raises:
        SettingsError: an unknown kind (the known ones are listed) or a setting that is wrong.
        MissingDependency: packages of an extra are not installed.
        ModelError, GuardFailed: the model of a local one.
    """
    kind, settings = part(FOLDER, spec, place)
    made: Opener = kind(settings)
    return made.open(around or Surroundings())
