"""What the lexer is in the middle of, as values that can be compared.

UTF-8 is followed byte by byte (The Unicode Standard, table 3-7): 0 between characters, else one of `UTF8`.
"""

from __future__ import annotations

import itertools
from typing import NamedTuple

from rung.engine.constraints.python.language import KEYWORDS, OPERATORS

__all__ = [
    "MARK_LETTERS",
    "OPERATOR_STARTS",
    "UTF8",
    "UTF8_LEFT",
    "WORD_BYTES",
    "WORD_STARTS",
    "Body",
    "Frame",
    "Kind",
    "Mode",
    "continued",
    "lead",
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

# state: lowest and highest byte that may come, and the state after it
UTF8: dict[int, tuple[int, int, int]] = {
    1: (0x80, 0xBF, 0),
    2: (0x80, 0xBF, 1),
    3: (0x80, 0xBF, 2),
    4: (0xA0, 0xBF, 1),
    5: (0x80, 0x9F, 1),
    6: (0x90, 0xBF, 2),
    7: (0x80, 0x8F, 2),
}
UTF8_LEFT = (0, 1, 2, 3, 2, 2, 3, 3)


def lead(byte: int) -> int | None:
    """The state after the first byte of a character; None if no character starts so."""
    if byte < 0x80:
        return 0
    special = {0xE0: 4, 0xED: 5, 0xF0: 6, 0xF4: 7}
    if byte in special:
        return special[byte]
    plain = (range(0xC2, 0xE0), range(0xE1, 0xF0), range(0xF1, 0xF4))
    return next((state for state, which in enumerate(plain, 1) if byte in which), None)


def continued(utf8: int, byte: int) -> int | None:
    """The state after a further byte of a character; None if it is none."""
    low, high, after = UTF8[utf8]
    return after if low <= byte <= high else None
