"""A small byte-level vocabulary with tokens that span symbols, and programs drawn from it."""

from __future__ import annotations

import random
import re

from rung.engine.constraints.protocol import State, Vocabulary

__all__ = ["VOCABULARY", "bytes_of", "drawn", "mutated"]

_LONG = [
    "):\n    ", "\n\n", " = ", "return", '"""', "'''", "\n    ", "\n        ", "    ", " if ", " else ", "else:",
    "def ", "class ", "(x", 'f"', "f'", "{x", '}"', "try:", "except", " in ", "for ", "lambda ", "yield", "await ",
    "async ",
    "not ", "**", "//", "\\x", "\\u", "\\N{", 'b"', "rb", "import ", "from ", " as ", "with ", "0x", "1_0", "1e", "!r",
    "!=", ":=", "->", "...", "#", "@x\n", "del ", "*,", "*x", "/,", "elif x:", "\\\n", "])", "((", "][", "{{", "}}",
    "''", '""', ";", ", ", "y=1", " x: int = ", "while True:\n    ", "finally:", "raise ", "global ", "pass\n", "\r\n",
    "\t", "\0",
]  # fmt: skip
_HALVES = [b"\xc3", b"\xa9x", b"\xe2\x82", b"\xf0\x9f", b"\xe2\x80\x9c"]
_WORDS = (*(bytes([byte]) for byte in range(256)), *(text.encode() for text in _LONG), *_HALVES)
VOCABULARY = Vocabulary((*_WORDS, None, None), (len(_WORDS) + 1,))
_PIECES = re.compile(r"\s+|\w+|.", re.DOTALL)


def bytes_of(token: int) -> bytes:
    """What a token that may be drawn stands for."""
    return VOCABULARY.tokens[token] or b""


def drawn(state: State, limit: int, draw: random.Random, prefer_long: bool) -> str:
    """A program of at most `limit` tokens, each drawn uniformly among those allowed (or among the longer of them)."""
    text = b""
    for left in range(limit, 0, -1):
        allowed = state.allowed(left).nonzero()[:, 0].tolist()
        long = [token for token in allowed if 256 <= token < len(_WORDS)]
        token = draw.choice(long if prefer_long and long else allowed)
        if token in VOCABULARY.end_ids:
            break
        text += bytes_of(token)
        state.advance(token)
        assert (state.shortest() or 0) <= left - 1
    assert state.complete()
    return text.decode()


def mutated(text: str, draw: random.Random) -> str:
    """The text with one piece taken out, replaced, or put in."""
    pieces = _PIECES.findall(text)
    place, what = draw.randrange(len(pieces)), draw.random()
    if what < 0.3:
        del pieces[place]
    elif what < 0.6:
        pieces[place] = draw.choice(_LONG)
    else:
        pieces.insert(place, draw.choice(_LONG))
    return "".join(pieces)
