"""What a branch-and-rethink judge is told, and the blocks that it has to write (arXiv 2510.23596, own wording).

Turn one reads the request and both responses, chooses one to three of eight dimensions and notes what is suspicious in
each response, without deciding. Turn two is an instruction alone: read again under what was chosen, verify what was
noted, rank. `one_turn` asks for the same blocks in one generation, `one_pass` leaves the second reading out; both are
for comparison.
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

Layout = Literal["two_turns", "one_turn", "one_pass"]

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
        "correctness": "the result, then the way to it, then its presentation",
        "intent": "what is wanted, then content, then creativity",
        "adherence": "the instructions, then content, then clarity",
    }
)
NOTHING = "None identified"

_FIRST = ("Focus", "Issues1", "Issues2")
_SECOND = ("Hierarchy", "Analysis1", "Analysis2", "Ranking")
LAYOUTS: Mapping[Layout, tuple[tuple[str, ...], ...]] = MappingProxyType(
    {"two_turns": (_FIRST, _SECOND), "one_turn": ((*_FIRST, *_SECOND),), "one_pass": ((*_FIRST, "Ranking"),)}
)
_SHAPES: Mapping[str, str] = MappingProxyType(
    {
        "Focus": "dimension, dimension",
        "Issues1": "what to verify in response 1",
        "Issues2": "what to verify in response 2",
        "Hierarchy": "correctness, intent or adherence",
        "Analysis1": "what verifying response 1 showed",
        "Analysis2": "what verifying response 2 showed",
        "Ranking": "\\boxed{1} or \\boxed{2}",
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
            f"Choose 1 to {MOST_DIMENSIONS} dimensions: {', '.join(DIMENSIONS)}.",
            f"Note what is suspicious in each response ({NOTHING} if nothing is)"
            + (", and do not decide yet." if "Ranking" not in blocks else _decide(blocks)),
            *_wanted(blocks),
        ]
    )


def last_words(layout: Layout) -> str:
    """The second user turn: instructions alone, whatever the pair."""
    blocks = LAYOUTS[layout][-1]
    opening = f"Read both responses again under the dimensions you chose{_decide(blocks)}"
    return "\n".join([opening, *_wanted(blocks)])


def _decide(blocks: Sequence[str]) -> str:
    if "Analysis1" not in blocks:
        return ", then rank."
    orders = "; ".join(f"{name}: {what}" for name, what in HIERARCHIES.items())
    return f", say what comes first ({orders}), verify what you noted, then rank."


def _wanted(blocks: Sequence[str]) -> list[str]:
    return ["Write exactly:", *(f"<{name}>{_SHAPES[name]}</{name}>" for name in blocks)]


def responses_of(item: Item) -> tuple[str, str]:
    """Both responses of a pair, in the order in which they are shown.

    Raises:
        DataError: the item is no pair.
    """
    found: Any = item.reference.get("responses")
    if not isinstance(found, (list, tuple)) or len(found) != 2 or not all(isinstance(one, str) for one in found):
        raise DataError("an item to be judged needs two texts in reference['responses']", place=f"item '{item.id}'")
    return found[0], found[1]
