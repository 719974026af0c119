"""JSON that a schema accepts: `{"json_schema": {"type": "object", ...}}`.

Properties come in the order in which they are declared and no others, so no key comes twice; put the reasoning before
the answer. Enforced are `type`, `properties`, `required`, `additionalProperties: false`, `items`, `minItems`,
`maxItems`, `minLength`, `maxLength`; of integers `minimum`, `maximum`, `exclusiveMinimum`, `exclusiveMaximum`; `enum`,
`const`, `anyOf`, `$ref` into `$defs` or `definitions`; annotations say nothing. Every other keyword is refused by name
and place: none is skipped.
"""

from __future__ import annotations

from typing import Any

from rung.engine.constraints.matching import GrammarConstraint, Spellings
from rung.engine.constraints.schema import rules_of_schema

__all__ = ["compile_json_schema"]


def compile_json_schema(what: Any, spellings: Spellings) -> GrammarConstraint:
    """The constraint of a schema.

    Raises:
        SettingsError: a keyword that is not supported or has a wrong value, with its JSON pointer; or a schema that
            nothing satisfies.
    """
    return GrammarConstraint(rules_of_schema(what), spellings)
