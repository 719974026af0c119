"""From what a request says to a compiled constraint, each made once."""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from rung.base.errors import SettingsError
from rung.base.lookup import known, lookup
from rung.engine.constraints.jump import Jump
from rung.engine.constraints.matching import Spellings
from rung.engine.constraints.protocol import Constraint
from rung.engine.constraints.vocabulary import read_vocabulary
from rung.records.tokenizer import Tokenizer

__all__ = ["FOLDER", "Compiler", "compile_rule"]

FOLDER = "engine.constraints.kinds"
_MOST_KEPT = 32


class Compiler:
    """Compiles `{kind: what}` for one model; the last few rules are remembered. May be used from many threads.

    Args:
        tokenizer: the model's own.
        width: of its logits.
    """

    def __init__(self, tokenizer: Tokenizer, width: int) -> None:
        self._tokenizer, self._width = tokenizer, width
        self._spellings: Spellings | None = None
        self._jump: Jump | None = None
        self._made: OrderedDict[str, Constraint] = OrderedDict()
        self._lock = threading.Lock()

    def compile(self, spec: Mapping[str, Any], place: str) -> Constraint:
        """The constraint of a request at `place`.

        Raises:
            SettingsError: no kind or two, an unknown one, or a rule that is wrong or not supported.
            MissingDependency: the kind needs a package that is not installed.
            ModelError: a tokenizer whose tokens have no known bytes.
        """
        place = f"{place}: constraint"
        _kind(spec, place)  # a kind's own module is imported before the lock is taken
        with self._lock:
            return self._compiled(spec, place)

    def jump(self) -> Jump:
        """What spells forced text for this model."""
        with self._lock:
            if self._jump is None:
                self._jump = Jump(self._tokenizer, self._spelled().vocabulary)
            return self._jump

    def _spelled(self) -> Spellings:
        if self._spellings is None:
            self._spellings = Spellings(read_vocabulary(self._tokenizer, self._width))
        return self._spellings

    def _compiled(self, spec: Mapping[str, Any], place: str) -> Constraint:
        key = _key(spec, place)
        if key not in self._made:
            self._made[key] = compile_rule(spec, self._spelled(), place)
            if len(self._made) > _MOST_KEPT:
                self._made.popitem(last=False)
        self._made.move_to_end(key)
        return self._made[key]


def compile_rule(spec: Mapping[str, Any], spellings: Spellings, place: str) -> Constraint:
    """The constraint `{kind: what}`, made anew; faults are named below `place`.

    Raises:
        SettingsError, MissingDependency: as `Compiler.compile`.
    """
    function, kind, what = _kind(spec, place)
    try:
        made: Constraint = function(what, spellings)
    except SettingsError as error:
        where = error.place.removeprefix("constraint")
        raise SettingsError(error.message, place=f"{place}.{kind}{where}", hint=error.hint) from error
    return made


def _kind(spec: Mapping[str, Any], place: str) -> tuple[Any, str, Any]:
    """The function of the one kind that is named, its name, and what it is given."""
    kinds = ", ".join(known(FOLDER))
    if len(spec) != 1:
        raise SettingsError(f"{len(spec)} kinds are given: {sorted(spec)}", place=place, hint=f"one of {kinds}")
    [(kind, what)] = spec.items()
    if ":" in kind:
        raise SettingsError(f"'{kind}' is no kind of constraint", place=place, hint=f"one of {kinds}")
    return lookup(FOLDER, kind, place), kind, what


def _key(spec: Mapping[str, Any], place: str) -> str:
    """The order of keys counts: properties come in the order in which they are declared."""
    try:
        return json.dumps(spec)
    except (TypeError, ValueError) as error:
        raise SettingsError(f"it is not made of plain values: {error}", place=place) from error
