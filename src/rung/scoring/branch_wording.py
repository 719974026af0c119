"""What a branch-and-rethink judge is told, and the blocks that it has to write (arXiv 2510.23596, own wording).

Turn one reads the request and both responses, chooses one to three of eight dimensions and notes what is suspicious in
each response, without deciding. Turn two is an instruction alone: read again under what was chosen, verify what was
noted, rank. For comparison: `one_turn` asks for the same blocks in one generation, `one_pass` ranks right after the
suspicions, and `unverified` is a two-turn judge that is stopped from reading again: its second answer is the box alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from types import MappingProxyType
from typing import Any, Literal

from rung.base.errors import DataError
from rung.records.contracts import Item

__all__ = [
    "DIMENSIONS",
    "HIERARCHIES",
    "LAYOUTS",
    "MOST_DIMENSIONS",
    "NOTHING",
    "Layout",
    "first_words",
    "last_words",
    "responses_of",
]

Layout = Literal["two_turns", "one_turn", "one_pass", "unverified"]

DIMENSIONS = (
    "Information Accuracy",
    "Computational Precision",
    "Logical Reasoning",
    "Implementation Capability",
    "Safety Awareness",
    "Response Completeness",
    "Instruction Adherence",
    "Communication Clarity",
)
MOST_DIMENSIONS = 3
HIERARCHIES: Mapping[str, str] = MappingProxyType(
    {
        "correctness": "result, way, presentation",
        "intent": "wish, content, creativity",
        "adherence": "instructions, content, clarity",
    }
)
NOTHING = "None identified"

_FIRST = ("Focus", "Issues1", "Issues2")
_SECOND = ("Hierarchy", "Analysis1", "Analysis2", "Ranking")
LAYOUTS: Mapping[Layout, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {
        "two_turns": (_FIRST, _SECOND),
        "one_turn": ((*_FIRST, *_SECOND),),
        "one_pass": ((*_FIRST, "Ranking"),),
        "unverified": (_FIRST, ("Ranking",)),
    }
)


def first_words(item: Item, layout: Layout) -> str:
    """The first user turn: request, responses, dimensions, and the blocks of the first answer.

    Raises:
        DataError: the item is no pair (`reference["responses"]` has not two texts).
    """
    first, second = responses_of(item)
    blocks = LAYOUTS[layout][0]
    return "\n".join(
        [
            "Compare two responses to a request.",
            "",
            f"Request: {item.instruction}",
            "",
            f"Response 1: {first}",
            "",
            f"Response 2: {second}",
            "",
            f"Focus: 1 to {MOST_DIMENSIONS} of {', '.join(DIMENSIONS)}.",
            f"Issues: what to verify in each response, or {NOTHING}.",
            *(_decide(blocks) if "Ranking" in blocks else ["Do not decide yet."]),
            _wanted(blocks),
        ]
    )


def last_words(layout: Layout) -> str:
    """The second user turn: instructions alone, whatever the pair."""
    blocks = LAYOUTS["two_turns" if layout == "unverified" else layout][-1]
    return "\n".join(["Read both again under your focus.", *_decide(blocks), _wanted(blocks)])


def _decide(blocks: Sequence[str]) -> list[str]:
    orders = ", ".join(f"{name} ({what})" for name, what in HIERARCHIES.items())
    verify = [f"Hierarchy: what counts first, of {orders}.", "Analysis: verify what you noted."]
    return [*(verify if "Hierarchy" in blocks else []), "Ranking: \\boxed{1} or \\boxed{2}, the better response."]


def _wanted(blocks: Sequence[str]) -> str:
    return f"Write exactly {' '.join(f'<{name}>...</{name}>' for name in blocks)}"


def responses_of(item: Item) -> tuple[str, str]:
    """Both responses of a pair, in the order in which they are shown.

    Raises:
        DataError: the item is no pair.
    """
    found: Any = item.reference.get("responses")
    if not isinstance(found, (list, tuple)) or len(found) != 2 or not all(isinstance(one, str) for one in found):
        raise DataError("an item to be judged needs two texts in reference['responses']", place=f"item '{item.id}'")
    return found[0], found[1]
