"""The conversation of a branch-and-rethink judge: what is said before each generation, and where each one ends."""

from __future__ import annotations

from dataclasses import dataclass

from rung.base.errors import SettingsError
from rung.base.settings import nearest
from rung.records.contracts import Item
from rung.scoring.branch_format import fault_in
from rung.scoring.branch_wording import DIMENSIONS, LAYOUTS, MOST_DIMENSIONS, Layout, first_words, last_words

__all__ = ["BranchScript"]


@dataclass(frozen=True, slots=True)
class BranchScript:
    """Keeps `rung.records.conversation.Script`. `dimensions` forces the branch: they are put into the model's mouth.

    Raises:
        SettingsError: a dimension that does not exist, one twice, or too many.
    """

    layout: Layout = "two_turns"
    dimensions: tuple[str, ...] = ()

    def __post_init__(self) -> None:
        for name in self.dimensions:
            if name not in DIMENSIONS:
                raise SettingsError(
                    f"no dimension is called '{name}'", place="dimensions", hint=nearest(name, list(DIMENSIONS))
                )
        if len(set(self.dimensions)) != len(self.dimensions) or len(self.dimensions) > MOST_DIMENSIONS:
            raise SettingsError(f"dimensions are {list(self.dimensions)}", place="dimensions", hint="1 to 3 different")

    @property
    def num_turns(self) -> int:
        """Two, or one for the layouts that are compared with."""
        return len(LAYOUTS[self.layout])

    def said(self, item: Item, turn: int) -> str:
        """The pair before the first generation, instructions alone before the second."""
        return first_words(item, self.layout) if turn == 0 else last_words(self.layout)

    def begun(self, turn: int) -> str:
        """The forced branch at the beginning of turn one; without a second reading, the ranking up to its box."""
        if turn == 1:
            return "<Ranking>\\boxed{" if self.layout == "unverified" else ""
        return f"<Focus>{', '.join(self.dimensions)}</Focus>" if self.dimensions else ""

    def stop(self, turn: int) -> tuple[str, ...]:
        """The end of the turn's last block."""
        return (f"</{LAYOUTS[self.layout][turn][-1]}>",)

    def goes_on(self, turn: int, text: str) -> bool:
        """A malformed turn one is the end: nothing that follows could earn anything."""
        return not fault_in(text, turn, self.layout)
