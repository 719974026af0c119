"""Reads users' grammars and regular expressions with xgrammar (Dong et al. 2024, arXiv 2411.15100).

It finds their faults and writes them in one plain notation, which `rung.engine.constraints.text` reads. Its masks are
not used: they let surrogate halves through, which are not UTF-8, and say nothing about what is left to be done after a
token, which closing at the limit needs.
"""

from __future__ import annotations

import importlib
import importlib.util
import re
from collections.abc import Callable
from typing import Any

from rung.base.errors import MissingDependency, SettingsError
from rung.engine.constraints.text import ROOT, Rules, read_rules

__all__ = ["LONGEST", "rules_of_ebnf", "rules_of_regex"]

LONGEST = 100_000
_PLACE = re.compile(r"at line (\d+), column (\d+): (.*)", re.DOTALL)
_DEFINED = re.compile(r"([A-Za-z_][\w.-]*)\s*::=")
_POSITION = re.compile(r"at position (\d+): (.*)", re.DOTALL)


def rules_of_ebnf(text: str) -> Rules:
    """The rules of a GBNF grammar.

    Raises:
        SettingsError: with line and column of the fault.
        MissingDependency: xgrammar is not installed.
    """
    rules = read_rules(_read(text, "grammar", lambda xgrammar: xgrammar.Grammar.from_ebnf(text)))
    rules.shown = {name: name for name in _DEFINED.findall(text) if name in rules.by_name}
    return rules


def rules_of_regex(text: str) -> Rules:
    """The rules of a regular expression.

    Raises:
        SettingsError: with the column of the fault.
        MissingDependency: xgrammar is not installed.
    """
    rules = read_rules(_read(text, "regular expression", lambda xgrammar: xgrammar.Grammar.from_regex(text)))
    rules.shown = {ROOT: ROOT}
    return rules


def _read(text: str, what: str, read: Callable[[Any], Any]) -> str:
    if not isinstance(text, str) or not text.strip():
        raise SettingsError(f"{text!r} is no {what}", place="constraint", hint="give it as a string")
    if len(text) > LONGEST:
        raise SettingsError(f"a {what} of {len(text)} characters", place="constraint", hint=f"at most {LONGEST}")
    if importlib.util.find_spec("xgrammar") is None:
        raise MissingDependency(
            f"a constraint by {what} needs xgrammar", place="constraint", hint="pip install 'rung[grammars]'"
        )
    try:
        return str(read(importlib.import_module("xgrammar")))
    except (RuntimeError, UnicodeError) as error:  # its only kind of error, and half a character
        raise _named(str(error), what) from error


def _named(message: str, what: str) -> SettingsError:
    """The fault at its place, without the library's clock and source lines."""
    found = _PLACE.search(message)
    if found:
        line, column, cause = found.groups()
        return SettingsError(
            f"the {what} is wrong at line {line}, column {column}: {cause.strip()}",
            place="constraint",
            hint="rules look like: name ::= \"text\" | [a-z]+ other-rule; the first to be used is 'root'",
        )
    found = _POSITION.search(message)
    where, cause = found.groups() if found else ("1", message)
    return SettingsError(
        f"the {what} is wrong at line 1, column {where}: {cause.strip()}",
        place="constraint",
        hint="ECMAScript's syntax without back-references, look-around and word boundaries",
    )
