"""A reply that is JSON of the kind asked for.

Accepts one JSON value, alone or inside a code fence; with `only` off, words before and after it too. Keys must all be
there (others may be); `values` must be equal, text compared without regard to case.

Refuses Python literals (single quotes, True), comments, and a value cut off in the middle.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any, Literal

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.verifier import Verifier, verdict

__all__ = ["JsonFormat"]

_FENCE = re.compile(r"```(?:json)?\s*\n(.*?)```", re.S | re.I)


class JsonFormatSettings(Settings):
    """What the JSON must be."""

    outer: Literal["object", "array"] = Field(default="object", description="the outermost value")
    keys: tuple[str, ...] = Field(default=(), description="keys that an object must have")
    values: Mapping[str, Any] = Field(default={}, description="keys of an object and what they must hold")
    only: bool = Field(default=True, description="nothing but the JSON may be in the reply")


class JsonFormat(Verifier[JsonFormatSettings]):
    """Whether the reply parses as the JSON asked for."""

    Settings = JsonFormatSettings
    EXAMPLES = (
        ({"keys": ["name"]}, "{'name': 'Ann'}", False),
        ({"keys": ["name"]}, '{"name": "Ann"', False),
        ({"keys": ["name"]}, '```json\n{"name": "Ann"}\n```', True),
        ({"keys": ["name"]}, 'Here: {"name": "Ann"}', False),
        ({"keys": ["name"], "only": False}, 'Here: {"name": "Ann"} is it.', True),
        ({"values": {"name": "ann", "age": 3}}, '{"name": "Ann", "age": 3, "x": null}', True),
        ({"values": {"name": "ann", "age": 3}}, '{"name": "Ann", "age": "3"}', False),
        ({"outer": "array"}, '{"a": 1}', False),
        ({"outer": "array"}, '["a", 1]', True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        fenced = _FENCE.search(reply)
        text = fenced.group(1) if fenced and (not self.settings.only or fenced.group() == reply.strip()) else reply
        value = self._parse(text.strip())
        if not isinstance(value, dict if self.settings.outer == "object" else list):
            return verdict(False, f"no JSON {self.settings.outer}")
        missing = [key for key in self.settings.keys if not isinstance(value, dict) or key not in value]
        wrong = [
            k for k, v in self.settings.values.items() if not isinstance(value, dict) or not _same(value.get(k), v)
        ]
        if missing or wrong:
            return verdict(False, f"missing keys {missing}, wrong values {wrong}")
        return verdict(True, f"JSON {self.settings.outer}")

    def _parse(self, text: str) -> Any:
        """The JSON value, or None where there is none."""
        start = 0 if self.settings.only else min((i for c in "{[" if (i := text.find(c)) >= 0), default=0)
        try:
            value, end = json.JSONDecoder().raw_decode(text[start:])
        except json.JSONDecodeError:
            return None
        return None if self.settings.only and text[start + end :].strip() else value


def _same(found: Any, wanted: Any) -> bool:
    if isinstance(found, str) and isinstance(wanted, str):
        return found.strip().casefold() == wanted.strip().casefold()
    return isinstance(found, bool) == isinstance(wanted, bool) and bool(found == wanted)
