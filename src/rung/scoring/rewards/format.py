"""Strictly kept tags: each once, in order, closed, not empty, nothing outside, and no other tag of the set inside.

Read from left to right by a small state machine. Counting tags would pay for spamming them, and a pattern that looks
for the first and the last would accept two answers. A missing tag is a fault, never filled in by a default (the
released code of arXiv 2510.23596 does that, and its format penalty then hardly ever acts).

It says nothing about what stands between the tags. Keep its weight below the gap between right and wrong.
"""

from __future__ import annotations

import re
from collections.abc import Sequence

from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reading import fold
from rung.scoring.reward import Example, Range, Reward

__all__ = ["Format"]


class FormatSettings(Settings):
    """The shape wanted."""

    tags: tuple[str, ...] = Field(default=("think", "answer"), min_length=1, description="tags, in their order")
    min_words: int = Field(default=1, ge=0, description="fewest words inside each tag")


class Format(Reward[FormatSettings]):
    """1 for an answer that is exactly the tags in order, 0 for every other."""

    Settings = FormatSettings
    EXAMPLES = (
        Example({}, "<think>7 and 5 make 12.</think>\n<answer>12</answer>", 1.0),
        Example({}, "<think></think><answer></answer>", 0.0),
        Example({}, "<answer>12</answer><think>so</think>", 0.0),
        Example({}, "<think>so</think><answer>12</answer><answer>13</answer>", 0.0),
        Example({}, "<think>so <answer>12</answer></think><answer>12</answer>", 0.0),
        Example({}, "Sure! <think>so</think><answer>12</answer>", 0.0),
        Example({}, "<think>so</think><answer>12", 0.0),
        Example({"tags": ["answer"]}, "<answer> 1 < 2 </answer>", 1.0),
        Example({"min_words": 2}, "<think>so it is</think><answer>12</answer>", 0.0),
    )

    @property
    def range(self) -> Range:
        """0 to 1."""
        return Range(0.0, 1.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        faults = [self._fault(trace.text) for trace in traces]
        return [Score(float(not fault), fault) for fault in faults]

    def _fault(self, text: str) -> str:
        """The first thing that is wrong, empty when nothing is."""
        wanted = [mark for tag in self.settings.tags for mark in (f"<{tag}>", f"</{tag}>")]
        marks = re.compile("|".join(re.escape(mark) for mark in sorted(set(wanted))))
        position = 0
        for number, mark in enumerate(wanted):
            found = marks.search(text, position)
            if found is None or found.group() != mark:
                return f"expected {mark}, found {found.group() if found else 'the end'}"
            between = text[position : found.start()]
            if number % 2 == 0 and between.strip():
                return f"text outside the tags before {mark}"
            if number % 2 and len(fold(between).split()) < self.settings.min_words:
                return f"{mark} closes fewer than {self.settings.min_words} words"
            position = found.end()
        return "text after the last tag" if text[position:].strip() else ""
