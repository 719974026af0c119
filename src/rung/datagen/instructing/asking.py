"""What one instruction asks of one text: the parts it is made of, and the promise that every kind of part keeps.

A kind is a file in `kinds/`, or a class of the user's own. It finds what a text can be asked for, words it, and decides
for any text whether it gives what was asked: that check is what alignment is measured by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar, Protocol

from rung.base.errors import DataError
from rung.base.lookup import part
from rung.base.seeds import stream
from rung.datagen.stories.judging import Known
from rung.datagen.templates import Template, template
from rung.records.chat.asking import Asking
from rung.records.contracts import Completer
from rung.records.types import Document

__all__ = ["KINDS", "Ask", "Kind", "Means", "Wording", "kinds", "wordings"]

KINDS = "datagen.instructing.kinds"


@dataclass(frozen=True, slots=True)
class Ask:
    """One thing that is asked. `said` fills the kind's wordings, `wanted` is what the check goes by."""

    kind: str
    said: Mapping[str, str]
    wanted: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Means:
    """What kinds may use: word lists and features, and a completer with the way to ask it (None: no model)."""

    known: Known
    completer: Completer | None = None
    asking: Asking = field(default_factory=Asking)


class Kind(Protocol):
    """A kind of part. `identifies` says whether it tells one text from others: what does not is never asked alone.

    `clauses` complete "a story ...", `lines` stand on a line of their own; both have exactly the placeholders in
    `said`. `needs_completer` says that it cannot do without a model.
    """

    identifies: ClassVar[bool]
    needs_completer: ClassVar[bool]
    said: ClassVar[tuple[str, ...]]
    clauses: ClassVar[tuple[str, ...]]
    lines: ClassVar[tuple[str, ...]]
    Settings: ClassVar[type[Any]]

    def asks(self, documents: Sequence[Document], seed: int) -> list[Ask | None]:
        """What each text can be asked for; None where there is nothing. Follows from the texts and the seed alone."""

    def holds(self, ask: Ask, text: str) -> bool:
        """Whether the text gives what is asked."""


@dataclass(frozen=True, slots=True)
class Wording:
    """The checked templates of a kind."""

    clauses: tuple[Template, ...]
    lines: tuple[Template, ...]

    def of(self, ask: Ask, form: str, seed: int) -> str:
        """The ask in words: one of the clauses, or of the lines."""
        choices = self.clauses if form == "asks" else self.lines
        return stream(seed, "wording", ask.kind).choice(choices).fill(**ask.said)


def kinds(specs: Sequence[str | dict[str, Any]], means: Means, place: str) -> dict[str, Kind]:
    """The kinds by name, in order.

    Raises:
        SettingsError: an unknown one, or settings that are wrong.
        DataError: two of a name.
    """
    found: dict[str, Kind] = {}
    for spec in specs:
        kind, settings = part(KINDS, spec, place)
        name = (spec if isinstance(spec, str) else str(spec["kind"])).rpartition(":")[2].lower()
        if name in found:
            raise DataError(f"'{name}' is named twice", place=place)
        found[name] = kind(settings, means)
    return found


def wordings(found: Mapping[str, Kind | type[Kind]]) -> dict[str, Wording]:
    """The templates of each kind, checked.

    Raises:
        DataError: a missing or unknown placeholder, or no wording at all; names kind and form.
    """
    checked = {}
    for name, kind in found.items():
        forms = {}
        for form in ("clauses", "lines"):
            texts = getattr(kind, form)
            if not texts:
                raise DataError(f"the kind '{name}' has no {form}", place=name)
            forms[form] = tuple(template(f"{name}.{form}[{n}]", text, kind.said) for n, text in enumerate(texts))
        checked[name] = Wording(forms["clauses"], forms["lines"])
    return checked
