"""A grammar in llama.cpp's notation: `{"gbnf": 'root ::= "yes" | "no"'}`.

The whole answer is one text of the rule `root`. Left recursion is allowed. Token terminals (`<think>`) and look-ahead
are not supported and refused.
"""

from __future__ import annotations

from typing import Any

from rung.engine.constraints.matching import GrammarConstraint, Spellings
from rung.engine.constraints.xgrammar import rules_of_ebnf

__all__ = ["compile_gbnf"]


def compile_gbnf(what: Any, spellings: Spellings) -> GrammarConstraint:
    """The constraint of a grammar.

    Raises:
        SettingsError: a wrong grammar, with line and column.
        MissingDependency: xgrammar is not installed.
    """
    return GrammarConstraint(rules_of_ebnf(what), spellings)
