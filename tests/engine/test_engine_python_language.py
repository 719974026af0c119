"""What the Python constraint lets through: nothing that `ast.parse` refuses, and nearly all that people write."""

from __future__ import annotations

import ast
import random
import sysconfig
import textwrap
import warnings
from pathlib import Path

import pytest
from tests.engine.python_programs import VOCABULARY, mutated

from rung.base.errors import ModelError
from rung.engine.constraints.python import compile_python

FREE = compile_python({}, VOCABULARY)
MODULES = ("bisect", "queue", "textwrap", "fnmatch", "contextlib", "dis")
ACCEPTED = [
    "", "\n\n", "x", "x = y = 1, *z", "(a, [b, *c]), d.e[0] = f().g = h", "x: int", "a.b[c]: d = yield", "x += yield a",
    "f(a, *b, c=1, *d, **e, g=2)", "f(x for x in y if z if w)", "f(a := 1)", "print(*a, sep='')",
    "lambda a, /, b=1, *c, d, e=2, **f: (yield)", "def f(a: int, /, b=1, *, c, d=2, **e) -> int: ...",
    "async def f():\n    async with a as (b, c), d:\n        return [x async for x in y]",
    "with (open(a) as b, c,):\n    pass", "with (a, b) as c, (d): pass", "del a, (b, [c.d]), e[0]",
    "try:\n    a\nexcept (B, C) as d:\n    e\nexcept:\n    f\nelse:\n    g\nfinally:\n    h",
    "@a.b(c)\n\n# d\nclass E(F, metaclass=G): x = 1; y = 2;", "from ... import (a as b, c,)", "from .a.b import *",
    "for a, in b, *c:\n    pass\nelse: pass", "x = {**a, 'b': 1, **c}; y = {1, *d}; z = {a: b for a in c}",
    "a[1:2, ::3, ..., *b]", "not a is not b not in c == -d ** -~e", "x = a if b else lambda: c",
    "x = (\n  1,\n\n# c\n      2)", "x = a \\\n    + b", "x = 0xF_f, 0b1, 0o17, 1_0.5e-3j, .5, 1., 0",
    "'a' \"b\" r'\\d' u'c' f'{a!r:>{w}}{{{b=}' rf'\\d{c[\"x\"]:%Y}'", "b'\\xff' Rb'\\d'", "'''a\n'b''c\\''''",
    "'\\x41\\u00e9\\U0010ffff\\377\\\n'", "x = 'é' # ü", "if a:\n\n    # b\n    c\n  # d\nelif e: f\nelse:\n    g",
    "f'{ {1: 2}[1] }{(lambda: 1)()}'", "x = 1  # no newline", "assert a, b; raise c from d; global e, f",
]  # fmt: skip
REFUSED = [
    "x =", "f() = 1", "a + b = 1", "x, y += 1", "(a, b): int", "*a = 1", "f(a=1, b)", "f(**a, *b)", "f(a.b=1)",
    "f(x for x in y, 1)", "def f(a=1, b): pass", "def f(*): pass", "def f(*, **a): pass", "def f(/, a): pass",
    "def f(a, /, b, /): pass", "lambda a=1, b: c", "del f()", "del a + b", "a not b", "a + not b", "await await x",
    "x := 1", "[*a for a in b]", "{**a for a in b}", "{a: b, c}", "import a.b as c.d", "from a import (b",
    "from a import b,", "try: a", "try:\n    a\nelse: b", "if a:\nb", "if a: if b: c", "  x", "if a:\n    b\n  c",
    "x = (1", "x = [1)",
    "x\\\n", "def\nf(a): pass", "def f\n(a): pass", "else: a", "0777", "1__0", "1_", "0x", "1if a else b", "1e",
    "'a", "'a\nb'",
    "'\\x4'", "'\\u12'", "'\\U00110000'", "'\\N{no such name}'", "b'é'", "'a' b'b'", "'''a''", "f'{}'", "f'{a'", "f'}'",
    "f'{a!x}'", "f'{a b}'", "f'{lambda: 1}'", "f'{a:{b:{c}}}'", "f'{\"\\n\"}'", "f'{a #}'", "@a\nx = 1", "x = \x00",
    "a ? b", "\tx", "x = \x0c1", "x.1", "x.if", "None = 1", "a <> b", "print a", "é = 1", "for a + b in c: d",
    "with a as b(): c",
]  # fmt: skip


def let(text: str) -> bool:
    """Whether the constraint takes the text byte by byte and calls it complete."""
    state = FREE.start()
    try:
        for byte in text.encode():
            state.advance(byte)
    except ModelError:
        return False
    return state.complete()


def parses(text: str) -> bool:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        try:
            ast.parse(text)
        except (SyntaxError, ValueError):
            return False
    return True


@pytest.mark.parametrize("text", ACCEPTED)
def test_valid_programs_are_let_through(text: str) -> None:
    assert parses(text)
    assert let(text)


@pytest.mark.parametrize("text", REFUSED)
def test_other_texts_are_not(text: str) -> None:
    assert not let(text)


def functions(module: str) -> list[str]:
    """Every function of a module of the standard library, on its own."""
    text = (Path(sysconfig.get_path("stdlib")) / f"{module}.py").read_text(encoding="utf-8")
    lines = text.splitlines()
    nodes = [node for node in ast.walk(ast.parse(text)) if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)]
    found = [textwrap.dedent("\n".join(lines[node.lineno - 1 : node.end_lineno])) for node in nodes]
    return [text for text in found if parses(text)]


def test_nearly_all_functions_of_the_standard_library_are_let_through() -> None:
    found = [text for module in MODULES for text in functions(module)]
    share = sum(let(text) for text in found) / len(found)
    assert len(found) > 100
    assert share >= 0.97


def test_what_is_let_through_of_broken_programs_still_parses() -> None:
    draw = random.Random(3)
    short = [text for module in MODULES for text in functions(module) if text.count("\n") < 10]
    broken = [mutated(draw.choice(short), draw) for _ in range(1500)]
    taken = [text for text in broken if let(text)]
    assert len(taken) > 100
    assert [text for text in taken if not parses(text)] == []


def test_every_start_of_a_program_can_be_completed_by_single_bytes() -> None:
    """The bound falls by at least one with the best byte at every place, so that closing never stalls."""
    for text in ACCEPTED:
        data = text.encode()
        for size in range(0, len(data), 3):
            state = FREE.start()
            for byte in data[:size]:
                state.advance(byte)
            left, written = state.shortest(), data[:size]
            assert left is not None
            while not state.complete():
                best = state.allowed(left).nonzero()[0, 0].item()
                written += VOCABULARY.tokens[int(best)] or b""
                state.advance(int(best))
                left -= 1
            assert parses(written.decode()), written
