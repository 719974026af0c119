"""Right or wrong, by a verifier: one of the folder by name, or all the checks that the item itself states.

The reward that the others are measured against. It abstains where the verifier does (no verdict is no failure) and
takes over its reason. It gives no partial credit and does not look at the way to the answer. With `inside` only what
stands in that tag is judged, so that thinking aloud costs nothing; an answer without the tag, or with two, is wrong.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any

from rung.base.lookup import part
from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.scoring.checks import Checks
from rung.scoring.reward import Example, Lent, Range, Reward

__all__ = ["Verified"]


class VerifiedSettings(Settings):
    """Who verifies."""

    verifier: Mapping[str, Any] | None = Field(
        default=None, description="a verifier `{kind: name, ...settings}`; none: the item's own checks"
    )
    inside: str = Field(default="", pattern=r"^\w*$", description="tag whose content alone is judged; empty: all of it")


class Verified(Reward[VerifiedSettings]):
    """1 for an answer that a verifier accepts, 0 for one that it refuses."""

    Settings = VerifiedSettings
    NEEDS = ("reference",)
    CONTENT = True
    EXAMPLES = (
        Example({}, "7 + 5 = 12", 1.0, {"checks": {"number": {"value": 12}}}),
        Example({}, "7 + 5 = 13", 0.0, {"checks": {"number": {"value": 12}}}),
        Example({}, "", 0.0, {"checks": {"number": {"value": 12}}}),
        Example({"inside": "answer"}, "No, 13? <answer>12</answer>", 1.0, {"checks": {"number": {"value": 12}}}),
        Example({"inside": "answer"}, "It is 12.", 0.0, {"checks": {"number": {"value": 12}}}),
        Example({"inside": "a"}, "<a>12</a> or <a>13</a>", 0.0, {"checks": {"number": {"value": 12}}}),
        Example({}, "12", 0.0, {"checks": {"number": {"value": 12}, "contains": {"groups": ["apples"]}}}),
        Example({"verifier": {"kind": "language", "code": "fr"}}, "Bonjour", None),
    )

    def __init__(self, settings: VerifiedSettings, lent: Lent | None = None) -> None:
        """Build the verifier.

        Raises:
            SettingsError: a verifier or setting that does not exist.
        """
        super().__init__(settings, lent)
        self._verifier: Scorer = _built(settings.verifier)

    @property
    def range(self) -> Range:
        """0 to 1."""
        return Range(0.0, 1.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        if not self.settings.inside:
            return self._verifier.score(items, traces)
        shown = [dataclasses.replace(one, text=_inside(one.text, self.settings.inside)) for one in traces]
        return self._verifier.score(items, shown)


def _inside(text: str, tag: str) -> str:
    """What stands in the one pair of tags, empty (which no verifier accepts) where there is no such one."""
    before, opened, rest = text.partition(f"<{tag}>")
    within, closed, after = rest.partition(f"</{tag}>")
    again = any(mark in before + within + after for mark in (f"<{tag}>", f"</{tag}>"))
    return within if opened and closed and not again else ""


def _built(spec: Mapping[str, Any] | None) -> Scorer:
    if spec is None:
        return Checks()
    kind, settings = part("scoring.verifiers", dict(spec), "verified.verifier")
    verifier: Scorer = kind(settings)
    return verifier
