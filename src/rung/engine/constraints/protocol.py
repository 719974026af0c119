"""What the engine asks of a constraint, and what a constraint may ask about the vocabulary.

A constraint is compiled once per model and rule; every sequence walks through it with a state of its own. Tokens are
bytes here: one token may span several symbols of a grammar, or end inside a character.

Legend: V vocabulary (the width of the logits, which may exceed the tokenizer's entries).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from torch import Tensor

__all__ = ["Constraint", "State", "Vocabulary"]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """The bytes of every token (None: special, or no token at all; never allowed by a constraint), and the tokens that
    end a text."""

    tokens: tuple[bytes | None, ...]
    end_ids: tuple[int, ...]


class State(Protocol):
    """One sequence's place in a constraint.

    The promise: a sequence that draws only allowed tokens, with the number of tokens really left, always ends in a
    complete text of the language, cut-offs included.
    """

    def allowed(self, remaining: int) -> Tensor:
        """Which tokens may be drawn next, bool [V], on the host.

        After each of them the text can still be completed within `remaining` tokens, the one drawn now included and
        an end token not. End tokens are allowed exactly where the text is complete.

        Raises:
            ModelError: none may (a dead end of the grammar or of the vocabulary).
        """

    def advance(self, token: int) -> None:
        """Take a token that was allowed (never an end token)."""

    def complete(self) -> bool:
        """Whether the text so far is a whole text of the language."""

    def over(self) -> bool:
        """Whether it is complete and nothing but the end may follow."""

    def shortest(self) -> int | None:
        """Tokens that suffice to complete the text from here (an upper bound on the fewest needed; 0 when complete);
        None where no bound is known, and then a cut-off is flagged as incomplete instead of prevented."""

    def forced(self) -> bytes:
        """Bytes that must follow in every continuation (empty: there is a choice, or the end is allowed)."""


class Constraint(Protocol):
    """A compiled rule, shared by all sequences that obey it."""

    def start(self) -> State:
        """The place before the first token."""

    def begun(self, data: bytes) -> State | None:
        """The place after the first bytes of a text; None where no text begins so."""
