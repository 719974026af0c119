"""Where a reply states its final answer: behind a marker, in a box, or as its only line."""

from __future__ import annotations

import re

from rung.scoring.reading import first_paragraph

__all__ = ["block", "final_segments"]

_MARKER = re.compile(r"(?:\banswer\b\W{0,3}(?:is\b|:|=)|####)[\W_]{0,3}?\s*([^\n]*)", re.I)
_FENCE = re.compile(r"```[a-zA-Z0-9_+-]*[ \t]*\n(.*?)```", re.S)
_MARKS = "\"'`*_ \t"


def final_segments(reply: str) -> list[str]:
    """Every place that states a final answer, boxed ones first; the first paragraph when nothing is marked."""
    marked = [text for text in _MARKER.findall(reply) if text.strip(_MARKS)]
    return [*_boxed(reply), *(text for text in marked if "\\boxed" not in text)] or [first_paragraph(reply)]


def block(reply: str) -> str:
    """The reply's one code block; without a fence its first paragraph and the indented ones after it.

    Empty when there are several different blocks. Line ends come out as newlines.
    """
    text = reply.replace("\r\n", "\n").strip()
    found = [inner.strip() for inner in _FENCE.findall(text)]
    if len(set(found)) > 1 or (not found and "```" in text):
        return ""
    return found[0] if found else re.split(r"\n[ \t]*\n+(?=\S)", text, maxsplit=1)[0]


def _boxed(reply: str) -> list[str]:
    """What stands in each box, braces inside counted; a box that never closes states nothing."""
    found = []
    for match in re.finditer(r"\\boxed\{", reply):
        depth = 1
        for place in range(match.end(), min(len(reply), match.end() + 2000)):
            depth += {"{": 1, "}": -1}.get(reply[place], 0)
            if depth == 0:
                found.append(reply[match.end() : place])
                break
    return found
