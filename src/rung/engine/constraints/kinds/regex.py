"""A regular expression that the whole answer matches: `{"regex": "[0-9]{4}-[0-9]{2}"}`.

ECMAScript's syntax. The match is always of the whole text, `^` and `$` say nothing more; `.` is any character, line
ends included; `\\d` and `\\w` are ASCII. Back-references, look-around, `\\b` and `\\p` are refused.
"""

from __future__ import annotations

from typing import Any

from rung.engine.constraints.matching import GrammarConstraint, Spellings
from rung.engine.constraints.xgrammar import rules_of_regex

__all__ = ["compile_regex"]


def compile_regex(what: Any, spellings: Spellings) -> GrammarConstraint:
    """The constraint of an expression.

    Raises:
        SettingsError: a wrong or unsupported expression, with its column.
        MissingDependency: xgrammar is not installed.
    """
    return GrammarConstraint(rules_of_regex(what), spellings)
