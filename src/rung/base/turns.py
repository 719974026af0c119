"""Groups taking turns: the one way in which rung takes a balanced share of typed things."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TypeVar

__all__ = ["take_turns"]

T = TypeVar("T")


def take_turns(groups: Iterable[Sequence[T]], count: int) -> list[T]:
    """`count` items, each group giving its next one in turn; a group that runs out leaves its turns to the others.

    Fewer than `count` when all groups together have fewer.
    """
    waiting = [iter(group) for group in groups]
    taken: list[T] = []
    while waiting and len(taken) < count:
        for one in list(waiting):
            if len(taken) == count:
                break
            try:
                taken.append(next(one))
            except StopIteration:
                waiting.remove(one)
    return taken
