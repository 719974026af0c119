"""Generation that is Python: every text it lets through is one that `ast.parse` accepts, cut-offs included.

Source: incremental lexing and parsing over the bytes of tokens after SynCode (Ugare et al. 2024, arXiv 2403.01632),
indentation from the lexer; the closing bound at every step is rung's own. What Python it writes: `language.py`.

It promises syntax, not sense: `return` outside a function, unknown names and endless loops are syntax too.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from rung.base.errors import ModelError, SettingsError
from rung.base.settings import Field, Settings, validate
from rung.engine.constraints.protocol import Constraint, State, Vocabulary
from rung.engine.constraints.python.closing import Closing
from rung.engine.constraints.python.grammar import IDS, LINE
from rung.engine.constraints.python.lexer import START, Lexer
from rung.engine.constraints.python.masks import Masks
from rung.engine.constraints.python.parser import ENDLESS, Parser
from rung.engine.constraints.utf8 import finished

__all__ = ["PythonSettings", "compile_python"]

_NEWLINE, _ELIF = IDS["NEWLINE"], IDS["elif"]
_USUAL_INDENT = 4
# a line or a chain of `elif` becomes a tree of that depth, and CPython refuses trees of a few thousand levels
_MOST_TERMINALS_IN_LINE = 1000
_MOST_ELIFS = 200
_CLOSERS = frozenset(range(32, 127)) | {ord("\n")}


class PythonSettings(Settings):
    """What stands before the text that is generated."""

    prefix: str = Field(
        "",
        max_length=1_000_000,
        description="code that generation goes on from (a signature and its docstring, say); both together parse",
    )


def compile_python(settings: Mapping[str, Any], vocabulary: Vocabulary) -> Constraint:
    """The constraint that what is generated is Python, after `settings["prefix"]` if there is one.

    Raises:
        SettingsError: the prefix is not the start of a program (of the subset), with line and column.
        ModelError: the vocabulary lacks bytes of which every program can be closed.
    """
    return _Python(validate(PythonSettings, settings, "constraint"), vocabulary)


class _Python:
    """The lexer, the parser and the masks of one prefix and vocabulary."""

    def __init__(self, settings: PythonSettings, vocabulary: Vocabulary) -> None:
        singles = frozenset(word[0] for word in vocabulary.tokens if word is not None and len(word) == 1)
        if lacking := sorted(_CLOSERS - singles):
            raise ModelError(
                f"the vocabulary has no token for the single byte {chr(lacking[0])!r} and {len(lacking) - 1} more",
                place="constraint python",
                hint="a program can only be closed with a byte-level vocabulary",
            )
        prefix = settings.prefix.encode()
        indent = _Reader(Parser(_USUAL_INDENT), Lexer(False)).read(prefix).indent
        read = _Reader(Parser(indent or _USUAL_INDENT), Lexer(False))
        self._start = read.read(prefix)
        self.lexer, self.parser = Lexer(True), read.parser
        closing = Closing(self.parser, finished(singles))
        self.masks = Masks(vocabulary, self.lexer, self.parser, closing)
        self.vocabulary = vocabulary
        if self.masks.need(self._start.mode, self._start.place) >= ENDLESS:
            raise _bad_prefix(prefix, len(prefix))

    def start(self) -> State:
        """After the prefix."""
        return _Spot(self, self._start)

    def begun(self, data: bytes) -> State | None:
        """After the prefix and some bytes; see `Constraint.begun`."""
        read = self._start.after(self.lexer)
        fits = all(read.take(byte) for byte in data)
        return _Spot(self, read) if fits and self.masks.need(read.mode, read.place) < ENDLESS else None


class _Reader:
    """Reads bytes from the start of a program, or on from another reader."""

    def __init__(self, parser: Parser, lexer: Lexer) -> None:
        self.parser, self.lexer = parser, lexer
        self.mode, self.place = START, parser.start()
        self.num_in_line = self.num_elifs = self.indent = 0

    def after(self, lexer: Lexer) -> _Reader:
        """A reader that goes on from here."""
        other = _Reader.__new__(_Reader)
        other.__dict__.update(self.__dict__)
        other.lexer = lexer
        return other

    def read(self, text: bytes) -> _Reader:
        """Take text whose blocks may have any depth; the first one's is kept as `indent`."""
        for place, byte in enumerate(text):
            if not self.take(byte, any_depth=True):
                raise _bad_prefix(text, place)
        return self

    def take(self, byte: int, any_depth: bool = False) -> bool:
        """Take one byte; False if no program goes on so."""
        read = self.lexer.step(self.mode, byte)
        if read is None:
            return False
        self.mode = read[1]
        return all(self._terminal(terminal, any_depth) for terminal in read[0])

    def _terminal(self, terminal: int, any_depth: bool) -> bool:
        before = self.place
        if terminal >= LINE and any_depth:
            reached = self.parser.line(before, terminal - LINE, terminal - LINE)
        else:
            reached = self.parser.step(before, terminal)
        if reached is None:
            return False
        if reached.column > before.column:
            self.indent = self.indent or reached.column - before.column
        self.num_in_line = 0 if terminal == _NEWLINE and not before.depth else self.num_in_line + 1
        self.num_elifs += terminal == _ELIF
        self.place = reached
        return True

    def tired(self) -> bool:
        """Whether the program must come to an end, because CPython's own stack would not hold more."""
        return self.num_in_line > _MOST_TERMINALS_IN_LINE or self.num_elifs > _MOST_ELIFS


class _Spot:
    """One sequence's place."""

    def __init__(self, python: _Python, read: _Reader) -> None:
        self._python, self._read = python, read.after(python.lexer)

    def allowed(self, remaining: int) -> Tensor:
        """See `State.allowed`."""
        mask = self._python.masks.mask(self._read.mode, self._read.place)
        bound = remaining - 1
        if self._read.tired():
            bound = min(bound, (self.shortest() or 0) - 1)
        allowed = mask.within(bound)
        if mask.complete:
            allowed[list(self._python.vocabulary.end_ids)] = True
        if not allowed.any():
            raise ModelError(
                f"no token may follow: {self.shortest()} tokens complete the program and {remaining} are left",
                place="constraint python",
                hint="raise max_tokens",
            )
        return torch.from_numpy(allowed)

    def advance(self, token: int) -> None:
        """See `State.advance`."""
        word = self._python.vocabulary.tokens[token]
        if not word or not all(self._read.take(byte) for byte in word):
            raise ModelError(f"token {token} was not allowed here", place="constraint python")

    def complete(self) -> bool:
        """See `State.complete`."""
        return self.shortest() == 0

    def over(self) -> bool:
        """See `State.over`; a program may go on till it is too long for one tree."""
        return self._read.tired() and self.complete()

    def shortest(self) -> int | None:
        """See `State.shortest`."""
        return self._python.masks.need(self._read.mode, self._read.place)

    def forced(self) -> bytes:
        """Nothing: where a token is certain its spacing is not."""
        return b""


def _bad_prefix(text: bytes, place: int) -> SettingsError:
    line = text.count(b"\n", 0, place) + 1
    before = text[text.rfind(b"\n", 0, place) + 1 : place]
    return SettingsError(
        f"the prefix is not the start of a program that can be written here (line {line}, column {len(before) + 1})",
        place="constraint.prefix",
        hint="end it before what is wrong; not supported: match, except*, tabs, non-ASCII names, nested f-strings",
    )
