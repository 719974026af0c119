"""Inside string literals: escapes that must be right, closing quotes, characters over several bytes.

An f-string is written so that it is one before and after Python 3.12 (PEP 701): no backslash, comment, newline or
quote of its own kind inside an expression. `\\N{...}` is left out: whether a name exists depends on the version.
"""

from __future__ import annotations

from rung.engine.constraints.python.modes import Body, Kind, Mode
from rung.engine.constraints.utf8 import continued, lead

__all__ = ["closing", "escape_step", "string_end", "text_byte"]

_PLAIN_ESCAPES = frozenset(b"\n\\'\"abfnrtv")
_HEX = frozenset(b"0123456789abcdefABCDEF")
_OCTAL = frozenset(b"01234567")
_NUL, _RETURN = 0, 13


def text_byte(mode: Mode, byte: int) -> Mode | None:
    """One byte of a string's text, quotes, braces and backslashes apart; None if it may not stand there."""
    body = mode.body
    assert body is not None
    if mode.utf8:
        after = continued(mode.utf8, byte)
        return None if after is None else mode._replace(utf8=after)
    state = lead(byte)
    banned = byte in (_NUL, _RETURN) or (byte == ord("\n") and not body.triple) or (byte >= 0x80 and body.is_bytes)
    return None if state is None or banned else Mode(Kind.TEXT, utf8=state, body=body, frame=mode.frame)


def string_end(mode: Mode, byte: int) -> Mode | None:
    """The text with one more closing quote; `num` reaching that of the opening ones means that it is over."""
    return mode._replace(num=mode.num + 1) if mode.body and byte == mode.body.quote else None


def closing(body: Body) -> int:
    """Quotes that close a string."""
    return 3 if body.triple else 1


def escape_step(mode: Mode, byte: int, strict: bool) -> Mode | None:
    """One byte of what a backslash began.

    Args:
        mode: ESCAPE, HEX, POINT or OCTAL.
        byte: the next one.
        strict: refuse escapes that Python only warns about.
    """
    if mode.kind == Kind.ESCAPE:
        return _escaped(mode, byte, strict)
    if mode.kind == Kind.HEX:
        return _counted(mode) if byte in _HEX else None
    if mode.kind == Kind.POINT:
        return _point(mode, byte)
    return _octal(mode, byte)


def _text(mode: Mode) -> Mode:
    return Mode(Kind.TEXT, body=mode.body, frame=mode.frame)


def _escaped(mode: Mode, byte: int, strict: bool) -> Mode | None:
    body, letter = mode.body, chr(byte)
    assert body is not None
    if body.raw:
        # a brace after a backslash keeps its meaning there, and is left out
        return None if body.formatted and letter in "{}" else _raw(mode, byte)
    if byte in _PLAIN_ESCAPES:
        return _text(mode)
    if byte in _OCTAL:
        return mode._replace(kind=Kind.OCTAL, text=letter)
    if letter == "x" or (letter == "u" and not body.is_bytes):
        return mode._replace(kind=Kind.HEX, num=2 if letter == "x" else 4)
    if letter == "U" and not body.is_bytes:
        return mode._replace(kind=Kind.POINT, text="")
    lenient = not strict and letter not in "N{}" and not body.formatted
    return _raw(mode, byte) if lenient else None


def _raw(mode: Mode, byte: int) -> Mode | None:
    """Any character after a backslash, a newline included."""
    return _text(mode) if byte == ord("\n") else text_byte(_text(mode), byte)


def _counted(mode: Mode) -> Mode:
    return mode._replace(num=mode.num - 1) if mode.num > 1 else _text(mode)


def _point(mode: Mode, byte: int) -> Mode | None:
    """Eight digits of a code point that is at most 10FFFF."""
    digits = mode.text + chr(byte)
    allowed = {1: b"0", 2: b"0", 3: b"01", 4: b"0" if digits.startswith("001") else None}.get(len(digits))
    if byte not in (_HEX if allowed is None else allowed):
        return None
    return mode._replace(text=digits[:4].ljust(len(digits), "0")) if len(digits) < 8 else _text(mode)


def _octal(mode: Mode, byte: int) -> Mode | None:
    """Up to three digits, of which the largest value is 377; anything else goes on as text (None: look again)."""
    if byte not in _OCTAL or (len(mode.text) == 2 and mode.text[0] > "3"):
        return None
    return mode._replace(text=mode.text + chr(byte)) if len(mode.text) < 2 else _text(mode)
