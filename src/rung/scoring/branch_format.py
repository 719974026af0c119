"""The strict format of a branch-and-rethink trace: every block once, in order, closed, filled, nothing outside.

Nothing is repaired. A missing block is a fault, never filled in by a default (the released code of arXiv 2510.23596
does that for the first turn, and its penalty then hardly ever acts), and so are a fourth dimension, an unknown one, a
box outside the ranking, and another box than 1 or 2 (there `\\boxed{3}` only costs more). Names count with their
capitals. A trace with a fault is no judgement: it earns no reward and abstains.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rung.scoring.branch_wording import DIMENSIONS, HIERARCHIES, LAYOUTS, MOST_DIMENSIONS, Layout

__all__ = ["Reading", "fault_in", "read", "written"]

_NAMES = tuple(dict.fromkeys(name for turns in LAYOUTS.values() for blocks in turns for name in blocks))
_MARK = re.compile("|".join(f"</?{name}>" for name in _NAMES), re.IGNORECASE)
_BOX = re.compile(r"\\boxed\{([12])\}")
_ANY_BOX = re.compile(r"boxed", re.IGNORECASE)


@dataclass(frozen=True, slots=True)
class Reading:
    """What a trace says; `fault` is the first thing wrong with it, and then it chooses nothing (None)."""

    fault: str = ""
    dimensions: tuple[str, ...] = ()
    issues: tuple[str, ...] = ()
    hierarchy: str = ""
    analyses: tuple[str, ...] = ()
    choice: int | None = None


def read(turns: Sequence[str], layout: Layout) -> Reading:
    """The judgement in a trace, all of its turns together."""
    wanted = LAYOUTS[layout]
    found: dict[str, str] = {}
    for number, (text, blocks) in enumerate(zip(turns, wanted, strict=False), 1):
        here, fault = _blocks(text, blocks)
        if fault := fault or _fault_of(here):
            return Reading(f"turn {number}: {fault}")
        found |= here
    if len(turns) != len(wanted):
        return Reading(f"{len(turns)} turns, {len(wanted)} are wanted")
    return _reading(found)


def fault_in(text: str, turn: int, layout: Layout) -> str:
    """What is wrong with one turn by itself, empty when nothing is."""
    found, fault = _blocks(text, LAYOUTS[layout][turn])
    return fault or _fault_of(found)


def written(contents: Mapping[str, str], blocks: Sequence[str]) -> str:
    """The blocks of one turn with their contents, as `read` takes them."""
    return "\n".join(f"<{name}>{contents[name]}</{name}>" for name in blocks)


def _blocks(text: str, blocks: Sequence[str]) -> tuple[dict[str, str], str]:
    """Contents by block, and the first thing that is wrong."""
    found: dict[str, str] = {}
    position = 0
    for name in blocks:
        for mark in (f"<{name}>", f"</{name}>"):
            hit = _MARK.search(text, position)
            if hit is None or hit.group() != mark:
                return found, f"expected {mark}, found {hit.group() if hit else 'the end'}"
            between = text[position : hit.start()].strip()
            if mark[1] == "/":
                found[name] = between
            elif between:
                return found, f"text before {mark}"
            position = hit.end()
        if not found[name]:
            return found, f"<{name}> is empty"
    return found, "text after the last block" if text[position:].strip() else ""


def _fault_of(found: Mapping[str, str]) -> str:
    for name, content in found.items():
        if name == "Ranking":
            if _BOX.fullmatch(content) is None:
                return f"the ranking is {content!r:.40}, not \\boxed{{1}} or \\boxed{{2}}"
        elif _ANY_BOX.search(content):
            return f"a box stands in <{name}>, outside the ranking"
    if "Hierarchy" in found and found["Hierarchy"] not in HIERARCHIES:
        return f"no hierarchy is called {found['Hierarchy']!r:.40}"
    return _fault_of_focus(found["Focus"]) if "Focus" in found else ""


def _fault_of_focus(content: str) -> str:
    chosen = content.split(", ")
    if unknown := [name for name in chosen if name not in DIMENSIONS]:
        return f"no dimension is called {unknown[0]!r:.40}"
    if len(chosen) != len(set(chosen)):
        return "a dimension is chosen twice"
    return f"{len(chosen)} dimensions, {MOST_DIMENSIONS} at most" if len(chosen) > MOST_DIMENSIONS else ""


def _reading(found: Mapping[str, str]) -> Reading:
    box = _BOX.fullmatch(found["Ranking"])
    return Reading(
        dimensions=tuple(found["Focus"].split(", ")),
        issues=(found["Issues1"], found["Issues2"]),
        hierarchy=found.get("Hierarchy", ""),
        analyses=tuple(found[name] for name in ("Analysis1", "Analysis2") if name in found),
        choice=int(box.group(1)) if box else None,
    )
