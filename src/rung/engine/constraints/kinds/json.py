"""Any JSON: `{"json": true}` for any value, `{"json": "object"}` or `{"json": "array"}` for that kind at the top.

Every answer loads with the standard library, cut-offs included. A key may come twice in one object (the last counts):
where that matters, or where the keys are known, use `json_schema`.
"""

from __future__ import annotations

from typing import Any

from rung.base.errors import SettingsError
from rung.engine.constraints.json_text import JSON_RULES
from rung.engine.constraints.matching import GrammarConstraint, Spellings
from rung.engine.constraints.text import read_rules

__all__ = ["compile_json"]

_TOPS = {True: "value", "object": "object", "array": "array"}


def compile_json(what: Any, spellings: Spellings) -> GrammarConstraint:
    """The constraint of JSON.

    Raises:
        SettingsError: neither true nor a kind of value.
    """
    if not isinstance(what, (bool, str)) or what not in _TOPS:
        raise SettingsError(f"{what!r} is not known", place="constraint", hint='use true, "object" or "array"')
    return GrammarConstraint(read_rules(f"root ::= {_TOPS[what]}{JSON_RULES}"), spellings)
