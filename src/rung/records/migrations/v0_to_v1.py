"""Version 0 to 1: the shape that the format had at first, without a version number.

The first commit's manifests lacked `inputs_content` (it came with the runner), its instructions the judgement and the
outcome that critics added, its critiques the number that decided. The number 1 stood in manifests from the start and
was not raised for these, so version 0 is whatever has this shape and no number; no release wrote it. What is filled in
are the values that the fields' absence meant. They are written out, so that no later default can change old records.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

__all__ = ["V0ToV1"]

_INSTRUCTION = {"critique": None, "outcome": "parsed", "part": "", "reason": ""}
_CRITIQUE = {"decision": None}
_CRITIQUES = ("critique", "instruction_critique", "pair_critique")


class V0ToV1:
    """The step; pure functions of plain values."""

    def manifest(self, values: Mapping[str, Any], inputs_content: Mapping[str, str]) -> dict[str, Any]:
        """The manifest with its version and with what its inputs held."""
        return {**values, "schema_version": 1, "inputs_content": dict(inputs_content)}

    def record(self, record_type: str, values: Mapping[str, Any]) -> dict[str, Any]:
        """One record with the fields that it was too early for."""
        later = _INSTRUCTION if record_type == "instruction" else {}
        changed = {**later, **values}
        for name in _CRITIQUES:
            if isinstance(changed.get(name), Mapping):
                changed[name] = {**_CRITIQUE, **changed[name]}
        return changed
