"""From bytes to terminals, one byte at a time.

The lexer knows nothing of the program: a newline is a NEWLINE and a line's first token a LINE + n everywhere, and the
parser ignores both inside brackets. A terminal is given out when its lexeme is over, which is often a byte later.
"""

from __future__ import annotations

from collections.abc import Callable

from rung.engine.constraints.python.grammar import IDS, LINE
from rung.engine.constraints.python.language import KEYWORDS, OPERATORS
from rung.engine.constraints.python.modes import (
    MARK_LETTERS,
    OPERATOR_STARTS,
    WORD_BYTES,
    WORD_STARTS,
    Body,
    Frame,
    Kind,
    Mode,
)
from rung.engine.constraints.python.numbers import MOST_DIGITS, NUMBER_REST, number_after
from rung.engine.constraints.python.strings import closing, escape_step, string_end, text_byte
from rung.engine.constraints.utf8 import continued, lead

__all__ = ["START", "Lexer", "Read", "pending"]

Terminals = tuple[int, ...]
Read = tuple[Terminals, Mode]

START = Mode(Kind.LINE)
_MOST_SPACES = 100
_MOST_BRACKETS_SHOWN = 3
_NOTHING: Terminals = ()
_NUMBER, _NAME, _NEWLINE = IDS["NUMBER"], IDS["NAME"], IDS["NEWLINE"]
_NUL, _RETURN = 0, 13
_LENGTHENED = frozenset(text[:-1] for text in OPERATOR_STARTS)


class Lexer:
    """Steps over bytes; remembers every step.

    Args:
        strict: refuse escapes in strings that Python only warns about.
    """

    def __init__(self, strict: bool) -> None:
        self._strict = strict
        self._known: dict[tuple[Mode, int], Read | None] = {}
        self._steps: dict[str, Callable[[Mode, int], Read | None]] = {
            Kind.LINE: _line,
            Kind.GAP: lambda mode, byte: _gap(byte, mode.frame),
            Kind.JOIN: lambda mode, byte: (_NOTHING, Mode(Kind.JOINED)) if byte == ord("\n") else None,
            Kind.JOINED: _joined,
            Kind.COMMENT: _comment,
            Kind.WORD: _word,
            Kind.NUMBER: _number,
            Kind.OPERATOR: _operator,
            Kind.QUOTE: _quote,
            Kind.QUOTES: _quotes,
            Kind.TEXT: _text,
            Kind.ESCAPE: self._escape,
            Kind.HEX: self._escape,
            Kind.POINT: self._escape,
            Kind.OCTAL: self._escape,
            Kind.OPENED: _opened,
            Kind.CLOSED: lambda mode, byte: (_NOTHING, _resumed(mode)) if byte == ord("}") else None,
            Kind.WIDTH: _width,
            Kind.CONVERTED: _converted,
        }

    def step(self, mode: Mode, byte: int) -> Read | None:
        """The terminals that a byte ends, and the mode after it; None if no program goes on so."""
        key = (mode, byte)
        if key not in self._known:
            self._known[key] = self._steps[mode.kind](mode, byte)
        return self._known[key]

    def _escape(self, mode: Mode, byte: int) -> Read | None:
        if mode.kind == Kind.OCTAL and byte not in b"01234567":
            return _text(_resumed(mode), byte)
        after = escape_step(mode, byte, self._strict)
        return None if after is None else (_NOTHING, after)


def pending(mode: Mode) -> Terminals | None:
    """The terminals of the lexeme being read if the text ends here; None if it may not."""
    if mode.kind == Kind.WORD:
        return (IDS[mode.text] if mode.text in KEYWORDS else _NAME,)
    if mode.kind == Kind.NUMBER:
        return None if NUMBER_REST[mode.text] else (_NUMBER,)
    if mode.kind == Kind.OPERATOR:
        dots = IDS["."]
        return (dots, dots) if mode.text == ".." else (IDS[mode.text],) if mode.text in OPERATORS else None
    if mode.kind == Kind.QUOTES and mode.body is not None:
        return _string(mode.body)
    if mode.kind == Kind.OPENED:
        return (IDS["FOPEN"],)
    whole = mode.kind in (Kind.GAP, Kind.LINE) or (mode.kind == Kind.COMMENT and not mode.utf8)
    return _NOTHING if whole else None


def _after(terminals: Terminals, read: Read | None) -> Read | None:
    return None if read is None else (terminals + read[0], read[1])


def _flushed(mode: Mode, byte: int) -> Read | None:
    """The lexeme ends before this byte, which starts the next."""
    ended = pending(mode)
    return None if ended is None else _after(ended, _gap(byte, mode.frame))


def _line(mode: Mode, byte: int) -> Read | None:
    letter = chr(byte)
    if letter == " ":
        return (_NOTHING, mode._replace(num=mode.num + 1)) if mode.num < _MOST_SPACES else None
    if letter == "\n":
        return _NOTHING, START
    if letter == "#":
        return _NOTHING, Mode(Kind.COMMENT, num=1)
    return None if letter == "\\" else _after((LINE + mode.num,), _gap(byte, None))


def _joined(mode: Mode, byte: int) -> Read | None:
    """After a backslash and a newline there must be a token."""
    if byte == ord(" "):
        return _NOTHING, mode
    return None if byte in b"\n#\\" else _gap(byte, None)


def _comment(mode: Mode, byte: int) -> Read | None:
    if mode.utf8:
        after = continued(mode.utf8, byte)
        return None if after is None else (_NOTHING, mode._replace(utf8=after))
    if byte == ord("\n"):
        return _NOTHING if mode.num else (_NEWLINE,), START
    state = lead(byte)
    return None if state is None or byte in (_NUL, _RETURN) else (_NOTHING, mode._replace(utf8=state))


def _gap(byte: int, frame: Frame | None) -> Read | None:
    """A byte that starts something, or a space."""
    letter = chr(byte)
    if letter == " ":
        return _NOTHING, Mode(Kind.GAP, frame=frame)
    if letter in "\n#\\":
        return None if frame else _layout(letter)
    if byte in WORD_BYTES and not letter.isdigit():
        return _NOTHING, Mode(Kind.WORD, letter if letter in WORD_STARTS else "", frame=frame)
    if letter in "0123456789":
        return _NOTHING, Mode(Kind.NUMBER, "zero" if letter == "0" else "whole", num=1, frame=frame)
    if letter in "'\"":
        return _opening("", byte, frame)
    return _mark(letter, frame) if letter in OPERATOR_STARTS else None


def _layout(letter: str) -> Read:
    if letter == "\n":
        return (_NEWLINE,), START
    return _NOTHING, Mode(Kind.COMMENT if letter == "#" else Kind.JOIN)


def _mark(letter: str, frame: Frame | None) -> Read | None:
    """The first byte of an operator or bracket; those of an f-string's expression close it at depth 0."""
    if frame and frame.depth == 0 and letter in "})]:":
        if letter == ":":
            return (IDS["FCOLON"],), Mode(Kind.WIDTH, body=frame.body)
        return ((IDS["FCLOSE"],), _outside(frame)) if letter == "}" else None
    if frame and letter in "([{)]}":
        frame = frame._replace(depth=frame.depth + (1 if letter in "([{" else -1))
        if frame.depth > _MOST_BRACKETS_SHOWN:
            return None
    return _settled(Mode(Kind.OPERATOR, letter, frame=frame))


def _settled(mode: Mode) -> Read:
    """An operator that no further byte can lengthen is given out at once."""
    longer = mode.text in _LENGTHENED
    return (_NOTHING, mode) if longer else ((IDS[mode.text],), Mode(Kind.GAP, frame=mode.frame))


def _outside(frame: Frame) -> Mode:
    return Mode(Kind.WIDTH if frame.in_width else Kind.TEXT, body=frame.body)


def _word(mode: Mode, byte: int) -> Read | None:
    letter = chr(byte)
    if byte in WORD_BYTES:
        longer = mode.text + letter
        return _NOTHING, mode._replace(text=longer if mode.text and longer in WORD_STARTS else "")
    if letter in "'\"" and mode.text in MARK_LETTERS:
        return _opening(mode.text.lower(), byte, mode.frame)
    return _flushed(mode, byte)


def _number(mode: Mode, byte: int) -> Read | None:
    letter = chr(byte)
    after = number_after(mode.text, letter)
    if after is None:
        return None if byte in WORD_BYTES else _flushed(mode, byte)
    count = mode.num + 1 if after == "whole" else mode.num * (after == "whole_")
    # an underscore needs one more digit
    full = count + (after == "whole_") > MOST_DIGITS
    return None if full else (_NOTHING, mode._replace(text=after, num=count))


def _operator(mode: Mode, byte: int) -> Read | None:
    letter = chr(byte)
    longer = mode.text + letter
    if mode.frame and mode.frame.depth == 0 and mode.text == "!" and letter in "rsa":
        return (IDS["CONVERSION"],), Mode(Kind.CONVERTED, frame=mode.frame)
    if longer in OPERATOR_STARTS:
        return _settled(mode._replace(text=longer))
    if mode.text in (".", "..") and letter.isdigit() and byte < 0x80:
        dots = (IDS["."],) * (len(mode.text) - 1)
        return dots, Mode(Kind.NUMBER, "fraction", frame=mode.frame)
    return _flushed(mode, byte)


def _opening(letters: str, byte: int, frame: Frame | None) -> Read | None:
    body = Body(byte, False, "r" in letters, "b" in letters, "f" in letters)
    if frame and (body.formatted or byte == frame.body.quote):
        return None
    return _NOTHING, Mode(Kind.QUOTE, body=body, frame=frame)


def _string(body: Body) -> Terminals:
    """The terminals of a string that ends without having held an expression."""
    if body.formatted:
        return IDS["FSTART"], IDS["FEND"]
    return (IDS["BYTES" if body.is_bytes else "STRING"],)


def _quote(mode: Mode, byte: int) -> Read | None:
    """After the opening quote: a second one, or the text."""
    body = mode.body
    assert body is not None
    if byte == body.quote:
        return _NOTHING, mode._replace(kind=Kind.QUOTES)
    started = (IDS["FSTART"],) if body.formatted else _NOTHING
    return _after(started, _text(mode._replace(kind=Kind.TEXT), byte))


def _quotes(mode: Mode, byte: int) -> Read | None:
    """After two quotes: an empty string, or a third one."""
    body = mode.body
    assert body is not None
    if byte != body.quote:
        return _flushed(mode, byte)
    if mode.frame:
        return None
    started = (IDS["FSTART"],) if body.formatted else _NOTHING
    return started, Mode(Kind.TEXT, body=body._replace(triple=True))


def _resumed(mode: Mode) -> Mode:
    return Mode(Kind.TEXT, body=mode.body, frame=mode.frame)


def _text(mode: Mode, byte: int) -> Read | None:
    body, frame, letter = mode.body, mode.frame, chr(byte)
    assert body is not None
    if mode.utf8 == 0:
        ended = string_end(mode, byte)
        if ended is not None:
            return _closed(ended) if ended.num == closing(body) else (_NOTHING, ended)
        if frame and (letter == "\\" or byte == frame.body.quote):
            return None
        if letter == "\\":
            return _NOTHING, Mode(Kind.ESCAPE, body=body, frame=frame)
        if body.formatted and letter in "{}":
            return _brace(body, letter)
    after = text_byte(mode, byte)
    return None if after is None else (_NOTHING, after)


def _closed(mode: Mode) -> Read:
    body = mode.body
    assert body is not None
    terminal = IDS["FEND"] if body.formatted else _string(body)[0]
    return (terminal,), Mode(Kind.GAP, frame=mode.frame)


def _brace(body: Body, letter: str) -> Read:
    if letter == "}":
        return _NOTHING, Mode(Kind.CLOSED, body=body)
    return _NOTHING, Mode(Kind.OPENED, frame=Frame(body, 0, False))


def _opened(mode: Mode, byte: int) -> Read | None:
    """After a brace in an f-string: a second one is text (in a width: nothing), anything else is an expression."""
    frame = mode.frame
    assert frame is not None
    if byte == ord("{"):
        return None if frame.in_width else (_NOTHING, _outside(frame))
    return _flushed(mode, byte)


def _width(mode: Mode, byte: int) -> Read | None:
    """The format of a value; its text is not looked at by the parser."""
    body, letter = mode.body, chr(byte)
    assert body is not None
    if mode.utf8 == 0:
        if letter == "{":
            return _NOTHING, Mode(Kind.OPENED, frame=Frame(body, 0, True))
        if letter == "}":
            return (IDS["FCLOSE"],), _resumed(mode)
        if letter in "\\\n" or byte == body.quote:
            return None
    after = text_byte(mode, byte)
    return None if after is None else (_NOTHING, after._replace(kind=Kind.WIDTH))


def _converted(mode: Mode, byte: int) -> Read | None:
    frame = mode.frame
    assert frame is not None
    if byte == ord(":"):
        return (IDS["FCOLON"],), Mode(Kind.WIDTH, body=frame.body)
    return ((IDS["FCLOSE"],), _outside(frame)) if byte == ord("}") else None
