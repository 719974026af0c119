"""Response cleaning: what a generation ran into is cut off, each rule under its own name; nothing is added.

Rules, in this order: a stray label in front goes ("leading_label"), then the text is cut at the delimiter
("delimiter"), at a line that opens a new prompt ("new_prompt"), at a line that announces the next question
("next_question"), at the first paragraph break ("paragraph"); left-over delimiter marks go ("stray_mark"). A sentence
that merely contains "now for" or "moving on" is never touched.
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any, Literal

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.heuristics import NEW_PROMPT, NEXT_QUESTION
from rung.records.chat.frame import Frame
from rung.records.contracts import FilterResult
from rung.records.types import Drop

__all__ = ["Cleaning"]

_LEADING_LABEL = re.compile(r"\A\s*(?:Response|Answer|Assistant|A)[ \t]*:[ \t]*", re.IGNORECASE)
_BREAK = re.compile(r"\n[ \t]*\n\s*")
_LIST_ITEM = re.compile(r"(?:[-*•]|\d{1,3}[.)])[ \t]")
_CORE = Frame.delimiter.strip()
_STRAY_MARK = re.compile(rf"\s*{re.escape(_CORE[:3])}\S*\s*\Z|^{re.escape(_CORE[:3])}\S*\s*", re.MULTILINE)


class Cleaning:
    """Replaces `response` of each candidate by what is left of its generation, and drops those with nothing left."""

    class Settings(BaseSettings):
        """How paragraphs are treated."""

        paragraphs: Literal["first", "keep"] = Field(
            default="first",
            description="'first' cuts at the first paragraph break, unless a list follows it; 'keep' keeps paragraphs",
        )

    def __init__(self, settings: Settings) -> None:
        self.settings = settings

    def clean(self, text: str) -> tuple[str, tuple[str, ...]]:
        """The cleaned text and the names of the rules that changed it; outer white space is no change."""
        applied: list[str] = []
        label = _LEADING_LABEL.match(text)
        if label:
            text, applied = text[label.end() :], ["leading_label"]
        for rule, place in (
            ("delimiter", lambda t: t.find(_CORE)),
            ("new_prompt", lambda t: _start(NEW_PROMPT.search(t))),
            ("next_question", lambda t: _start(NEXT_QUESTION.search(t))),
            ("paragraph", self._paragraph_end),
        ):
            cut = place(text)
            if cut >= 0:
                text = text[:cut]
                applied.append(rule)
        without = _STRAY_MARK.sub("", text)
        if without != text:
            text = without
            applied.append("stray_mark")
        return text.strip(), tuple(applied)

    def _paragraph_end(self, text: str) -> int:
        if self.settings.paragraphs == "keep":
            return -1
        start = len(text) - len(text.lstrip())
        for found in _BREAK.finditer(text, start):
            rest = text[found.end() :]
            if not rest:
                return -1
            # A list belongs to the line that announces it, and to the items before it.
            if not _LIST_ITEM.match(rest):
                return found.start()
        return -1

    def apply(self, records: Sequence[Any]) -> FilterResult:
        """Clean every candidate, in order; the token count of a changed response must be taken anew."""
        kept, dropped = [], []
        for record in records:
            text, applied = self.clean(record.generated)
            if text:
                kept.append(dataclasses.replace(record, response=text, cleaning=applied, num_response_tokens=-1))
            else:
                span = (0, len(record.generated))
                dropped.append(Drop(record.id, record.generated, "cleaning", "nothing_left", span, {"rules": applied}))
        return FilterResult(tuple(kept), tuple(dropped))


def _start(match: re.Match[str] | None) -> int:
    return match.start() if match else -1
