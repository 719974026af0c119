"""What the lexer is in the middle of, as values that can be compared."""

from __future__ import annotations

import itertools
from typing import NamedTuple

from rung.engine.constraints.python.language import KEYWORDS, OPERATORS

__all__ = [
    "MARK_LETTERS",
    "OPERATOR_STARTS",
    "WORD_BYTES",
    "WORD_STARTS",
    "Body",
    "Frame",
    "Kind",
    "Mode",
]


class Body(NamedTuple):
    """A string being read: its quote (a byte), whether three of them, and which letters stood before it."""

    quote: int
    triple: bool
    raw: bool
    is_bytes: bool
    formatted: bool


class Frame(NamedTuple):
    """An expression inside an f-string: the string around it, open brackets, and whether it stands in a width."""

    body: Body
    depth: int
    in_width: bool


class Kind:
    """Names of modes."""

    LINE = "line"
    GAP = "gap"
    JOIN = "join"
    JOINED = "joined"
    COMMENT = "comment"
    WORD = "word"
    NUMBER = "number"
    OPERATOR = "operator"
    QUOTE = "quote"
    QUOTES = "quotes"
    TEXT = "text"
    ESCAPE = "escape"
    HEX = "hex"
    POINT = "point"
    OCTAL = "octal"
    OPENED = "opened"
    CLOSED = "closed"
    WIDTH = "width"
    CONVERTED = "converted"


class Mode(NamedTuple):
    """One state of the lexer: its kind, what was read of a lexeme, how many (digits, spaces, quotes), around what."""

    kind: str
    text: str = ""
    num: int = 0
    utf8: int = 0
    body: Body | None = None
    frame: Frame | None = None


WORD_BYTES = frozenset(b"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_")
# letters, as written, that make a following quote the start of a string
MARK_LETTERS = frozenset(
    "".join(letters)
    for mark in ("r", "u", "b", "f", "br", "rb", "fr", "rf")
    for letters in itertools.product(*((letter, letter.upper()) for letter in mark))
)
WORD_STARTS = frozenset(word[:size] for word in (*KEYWORDS, *MARK_LETTERS) for size in range(1, len(word) + 1))
OPERATOR_STARTS = frozenset(text[:size] for text in (*OPERATORS, "!=") for size in range(1, len(text) + 1))
