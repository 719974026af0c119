"""One of a few strings, and nothing else: `{"choice": ["yes", "no"]}`.

The shortest way to spell each choice in tokens is known exactly. A choice that begins another one is ended by an end
token or by the limit.
"""

from __future__ import annotations

from typing import Any

from rung.base.errors import SettingsError
from rung.engine.constraints.matching import GrammarConstraint, Spellings
from rung.engine.constraints.text import ROOT, Rules

__all__ = ["compile_choice"]


def compile_choice(what: Any, spellings: Spellings) -> GrammarConstraint:
    """The constraint of a list of strings.

    Raises:
        SettingsError: no list, no choice, or an empty one.
    """
    if not isinstance(what, (list, tuple)) or not all(isinstance(text, str) for text in what):
        raise SettingsError(f"{what!r} is no list of strings", place="constraint")
    if not what or "" in what:
        raise SettingsError(f"an empty choice: {what!r}", place="constraint", hint="name at least one text, none empty")
    rules = Rules(shown={ROOT: ROOT})
    rules.add(ROOT, [tuple(1 << byte for byte in _encoded(text)) for text in dict.fromkeys(what)])
    return GrammarConstraint(rules, spellings)


def _encoded(text: str) -> bytes:
    try:
        return text.encode()
    except UnicodeEncodeError as error:
        raise SettingsError(f"{text!r} has half a character", place="constraint") from error
