"""Tests that are put into a test file for one run, with known outcomes: one that must pass and some that must fail.

Whoever makes every test pass makes those pass too. One must-fail canary is a false sum; the others are the file's own
tests with one expected literal changed, which an object that equals everything passes. Places are drawn from between
the file's functions, and names, also of the file's own tests, anew for each run: whoever passes the tests that he knows
by name knows none. What must pass notices who makes tests fail or vanish.
"""

from __future__ import annotations

import ast
import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

__all__ = ["Planted", "plant"]

_WORDS = (
    "again",
    "after",
    "both",
    "case",
    "each",
    "first",
    "given",
    "large",
    "last",
    "many",
    "next",
    "other",
    "second",
)
_LEAST, _MOST = 1_000, 9_999


@dataclass(frozen=True, slots=True)
class Planted:
    """A test file with canaries, their names by what must become of them, and the file's own names by the new ones."""

    text: str
    passing: tuple[str, ...]
    failing: tuple[str, ...]
    own: Mapping[str, str]


def plant(text: str, num_twisted: int, rng: random.Random | None = None) -> Planted:
    """Put canaries into a test file; of its own tests, up to `num_twisted` come once more with a wrong expectation.

    Raises:
        SyntaxError: the file is no Python.
    """
    rng = rng or random.SystemRandom()
    tree, names = ast.parse(text), _Names(text, rng)
    good, bad = names.new(), names.new()
    one, two = rng.randint(_LEAST, _MOST), rng.randint(_LEAST, _MOST)
    pieces = [_sum(good, (one, two, one + two)), _sum(bad, (two, one, one + two + rng.randint(1, 9)))]
    failing = [bad]
    sources = [node for node in tree.body if isinstance(node, ast.FunctionDef) and _eligible(node)]
    for node in rng.sample(sources, min(num_twisted, len(sources))):
        failing.append(names.new())
        pieces.append(_twisted(node, failing[-1], rng))
    lines, own = _renamed(text, tree, names)
    return Planted(_inserted(lines, tree, pieces, rng), (good,), tuple(failing), own)


class _Names:
    """Draws names that could be the file's own and are not."""

    def __init__(self, text: str, rng: random.Random) -> None:
        self._taken, self._rng = set(re.findall(r"\w+", text)), rng
        tests = [name for name in self._taken if name.startswith("test_")]
        self._words = sorted({word for name in tests for word in name.split("_")[1:] if word} | set(_WORDS))

    def new(self) -> str:
        """One more."""
        while True:
            name = "_".join(("test", *self._rng.sample(self._words, self._rng.randint(2, 5))))
            if name not in self._taken:
                self._taken.add(name)
                return name


def _sum(name: str, numbers: tuple[int, int, int]) -> str:
    one, two, total = numbers
    return f"def {name}():\n    assert {one} + {two} == {total}\n"


def _eligible(node: ast.FunctionDef) -> bool:
    """A plain test with an expectation to change: nothing decorated, whose outcome may be meant otherwise."""
    return node.name.startswith("test") and not node.decorator_list and bool(_expectations(node.body))


def _expectations(body: Sequence[ast.stmt]) -> list[ast.Compare]:
    """Comparisons with a literal that the function asserts whatever happens before."""
    found = []
    for statement in body:
        test = statement.test if isinstance(statement, ast.Assert) else None
        if isinstance(test, ast.Compare) and len(test.ops) == 1 and isinstance(test.ops[0], ast.Eq):
            changed = _changed(_literal(test.comparators[0]), random)
            found += [test] if changed is not None and _literal(test.left) is None else []
    return found


def _literal(node: ast.expr) -> Any:
    try:
        return ast.literal_eval(node)
    except ValueError:
        return None


def _changed(value: Any, rng: Any) -> Any:
    """Another value of the same kind that no wrong solution gives by the way; None where there is none (of a truth
    value the other one is just that)."""
    number = rng.randint(_LEAST, _MOST)
    if type(value) in (int, float, complex):
        return value + number
    if isinstance(value, (list, tuple)):
        return (*value, number) if isinstance(value, tuple) else [*value, number]
    if isinstance(value, (str, bytes)):
        return value + str(number) if isinstance(value, str) else value + str(number).encode()
    if isinstance(value, (set, dict)):
        return {**value, number: number} if isinstance(value, dict) else {*value, number}
    return None


def _twisted(node: ast.FunctionDef, name: str, rng: random.Random) -> str:
    copy = ast.parse(ast.unparse(node)).body[0]
    assert isinstance(copy, ast.FunctionDef)
    copy.name = name
    expectation = rng.choice(_expectations(copy.body))
    wrong = _changed(_literal(expectation.comparators[0]), rng)
    expectation.comparators = [ast.parse(repr(wrong), mode="eval").body]
    return ast.unparse(copy) + "\n"


def _renamed(text: str, tree: ast.Module, names: _Names) -> tuple[list[str], dict[str, str]]:
    """The file's lines with new names for its tests, and the old ones by them; one that is spoken of stays."""
    inner = [node for outer in tree.body if isinstance(outer, ast.ClassDef) for node in outer.body]
    found: dict[str, list[int]] = {}
    for node in (*tree.body, *inner):
        if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) and node.name.startswith("test"):
            found.setdefault(node.name, []).append(node.lineno - 1)
    lines, own = text.splitlines(), {}
    for name, places in found.items():
        word = re.compile(rf"\b{re.escape(name)}\b")
        if len(word.findall(text)) == len(places):
            new = names.new()
            own[new] = name
            for place in places:
                lines[place] = word.sub(new, lines[place], count=1)
    return lines, own


def _inserted(lines: list[str], tree: ast.Module, pieces: list[str], rng: random.Random) -> str:
    """Each piece before one of the file's functions and classes, or at its end."""
    nodes = [node for node in tree.body if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef))]
    places = [min([node.lineno, *(one.lineno for one in node.decorator_list)]) - 1 for node in nodes] + [len(lines)]
    chosen = [(rng.choice(places), piece) for piece in rng.sample(pieces, len(pieces))]
    for place, piece in sorted(chosen, key=lambda pair: -pair[0]):
        lines[place:place] = ["", "", *piece.splitlines(), "", ""]
    return "\n".join(lines) + "\n"
