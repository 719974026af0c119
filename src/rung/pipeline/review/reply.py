"""Reading a reply: one JSON object with exactly the asked-for keys and types, or it is not a review.

Nothing is repaired or guessed: no fence is taken off, no text around the object is skipped, no "yes" counts as true.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

from rung.base.errors import DataError

__all__ = ["APPROVAL_FORM", "Approval", "Order", "order_form", "read_approval", "read_order"]

_LONGEST = 100_000
_SHOWN = 80

APPROVAL_FORM = {
    "approved": "true or false; nothing but the literal true approves",
    "reasons": "a list of texts, at least one",
    "suggestions": "a list of texts, empty when there is nothing to change",
}


@dataclass(frozen=True, slots=True)
class Approval:
    """A review of method."""

    approved: bool
    reasons: tuple[str, ...]
    suggestions: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Order:
    """Options, the most important first, each with its reason."""

    order: tuple[str, ...]
    reasons: tuple[str, ...]


def order_form(options: Sequence[str]) -> dict[str, str]:
    """What a reply to a question of order must hold."""
    return {
        "order": f"a list of the {len(options)} options, each exactly once and word for word, the first to do first",
        "reasons": "a list of as many texts, one for each option in that order",
    }


def read_approval(text: str) -> Approval:
    """The review in a reply.

    Raises:
        DataError: it is not a review; says why.
    """
    values = _object(text, {"approved", "reasons", "suggestions"})
    if not isinstance(values["approved"], bool):
        _refuse(f"'approved' is {values['approved']!r:.{_SHOWN}}, not true or false")
    reasons, suggestions = _texts(values, "reasons"), _texts(values, "suggestions")
    if not reasons:
        _refuse("it gives no reason")
    return Approval(values["approved"], reasons, suggestions)


def read_order(text: str, options: Sequence[str]) -> Order:
    """The order in a reply, a permutation of `options`.

    Raises:
        DataError: it is not one; says why.
    """
    values = _object(text, {"order", "reasons"})
    order, reasons = _texts(values, "order"), _texts(values, "reasons")
    if Counter(order) != Counter(options):
        wrong = [*(Counter(options) - Counter(order)), *(Counter(order) - Counter(options))]
        _refuse(f"'order' is not the given options, each once: look at {wrong[0]!r:.{_SHOWN}}")
    if len(reasons) != len(order):
        _refuse(f"{len(reasons)} reasons for {len(order)} options")
    return Order(order, reasons)


def _object(text: str, keys: set[str]) -> dict[str, Any]:
    if len(text) > _LONGEST:
        _refuse(f"it has {len(text)} characters, more than {_LONGEST}")
    try:
        values = json.loads(text, object_pairs_hook=_once, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        _refuse(f"it is not one JSON object ({error})", error)
    if not isinstance(values, dict):
        _refuse(f"it is a JSON {type(values).__name__}, not an object")
    if values.keys() != keys:
        _refuse(f"its keys are {sorted(values)!r:.{_SHOWN}}, they must be exactly {sorted(keys)}")
    return values


def _once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """A key that stands twice would let one reader see an approval and another a refusal."""
    twice = [key for key, count in Counter(key for key, _ in pairs).items() if count > 1]
    if twice:
        _refuse(f"the key {twice[0]!r:.{_SHOWN}} stands twice")
    return dict(pairs)


def _no_constant(name: str) -> NoReturn:
    _refuse(f"{name} is not JSON")


def _texts(values: dict[str, Any], key: str) -> tuple[str, ...]:
    found = values[key]
    if not isinstance(found, list) or not all(isinstance(item, str) and item.strip() for item in found):
        _refuse(f"'{key}' is not a list of texts")
    return tuple(found)


def _refuse(why: str, cause: BaseException | None = None) -> NoReturn:
    raise DataError(f"not a review: {why}", hint="the reply must be one JSON object of the asked-for form") from cause
