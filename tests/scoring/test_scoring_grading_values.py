"""What crosses the pipe is plain or nothing; what is plain arrives as it was."""

from __future__ import annotations

import collections
import datetime
import decimal
import fractions
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from tests.scoring.grading_sandboxes import PipeSandbox

from rung.scoring.grading import values
from rung.scoring.grading.grade import grade
from rung.scoring.grading.problem import Problem
from rung.scoring.grading.values import Unacceptable, decode, encode, parse

SCALARS = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(allow_nan=False),
    st.text(),
    st.binary(),
    st.complex_numbers(allow_nan=False),
)
KEYS = st.one_of(st.integers(), st.text(), st.tuples(st.integers(), st.text()), st.frozensets(st.integers()))
PLAIN = st.recursive(
    SCALARS,
    lambda inner: st.one_of(
        st.lists(inner), st.tuples(inner, inner), st.sets(KEYS), st.dictionaries(KEYS, inner, max_size=4)
    ),
    max_leaves=12,
)


def refuse(*_):
    raise Unacceptable("not plain")


def same(one, other):
    """Equal in value and in every type, with NaN equal to itself."""
    return repr(one) == repr(other) if isinstance(one, (float, complex)) else type(one) is type(other) and one == other


@given(PLAIN)
def test_plain_values_survive_both_ways(value):
    there = decode(parse(json.dumps(encode(value, refuse)).encode()), refuse)
    assert same(there, value)
    assert there == value


@pytest.mark.parametrize(
    "value",
    [
        datetime.date(2024, 2, 29), datetime.datetime(2024, 1, 2, 3, 4, 5, 6), datetime.timedelta(-1, 5, 7),
        datetime.time(1, 2), decimal.Decimal("0.10"), fractions.Fraction(-3, 7), range(3, -9, -2), bytearray(b"\xff\0"),
        collections.deque([1, "a"]), 10**400, -(2**62), float("inf"), "\ud800",
    ],
)  # fmt: skip
def test_the_librarys_own_values_survive(value):
    assert same(decode(parse(json.dumps(encode(value, refuse)).encode()), refuse), value)


def test_not_a_number_stays_one():
    assert math.isnan(decode(parse(b"NaN"), refuse))


@pytest.mark.parametrize(
    "sent",
    [
        {}, [], [1], ["z"], ["l", {"a": 1}], ["s", ["l"]], ["d", 1], ["d", ["l"], 1], ["i", 5], ["i", "zz"],
        ["b", "\u1234"], ["c", 1], ["c", "1", 2], ["x", "Popen", "ls"], ["x", "Decimal", 5], ["x", "range", 1.5, 2, 3],
        ["x", "date", "soon"], ["n", "T", ["a b"], 1], ["n", "T", ["__eq__"], 1], ["n", "T", ["a"], 1, 2],
        ["n", "T", 5, 1], ["o", 0, "thing", []], ["i", "f" * (1 << 19)], ["x", "Fraction", 1, 0],
        ["s", *((2**61 - 1) * k for k in range(500))],
    ],
)  # fmt: skip
def test_anything_else_is_refused(sent):
    with pytest.raises(Unacceptable):
        decode(sent, refuse)


@pytest.mark.parametrize("data", [b"", b"{", b"[" * 100_000, b"\xff", b"9" * 5000])
def test_what_is_no_json_is_refused(data):
    with pytest.raises(Unacceptable):
        parse(data)


def test_depth_and_number_are_limited(monkeypatch):
    deep = 1
    for _ in range(300):
        deep = ["l", deep]
    with pytest.raises(Unacceptable, match="deeper"):
        decode(deep, refuse)
    monkeypatch.setattr(values, "_MOST_NODES", 50)
    assert decode(["l", *([["l"]] * 40)], refuse) == [[]] * 40
    with pytest.raises(Unacceptable, match="more than"):
        decode(["l", *([["l"]] * 60)], refuse)


TALKS = {
    "a counter is a dict": (
        "from collections import Counter\ndef f(x): return Counter(x)", "f('aab') == {'a': 2, 'b': 1}",
    ),
    "a default dict is a dict": (
        "from collections import defaultdict\ndef f(x):\n    d = defaultdict(list)\n    d[x].append(1)\n    return d",
        "f('a') == {'a': [1]} and type(f('a')) is dict",
    ),
    "an enum of numbers is a number": (
        "import enum\nclass E(enum.IntEnum):\n    A = 3\ndef f(): return E.A", "f() == 3",
    ),
    "a named tuple keeps its names": (
        "import typing\nclass P(typing.NamedTuple):\n    x: int\n    y: int\ndef f(): return P(1, 2)",
        "f() == (1, 2) and f().y == 2",
    ),
    "a dataclass keeps its fields": (
        "import dataclasses\n@dataclasses.dataclass\nclass P:\n    x: int\n    y: list\ndef f(): return P(1, [2])",
        "f().y == [2] and __import__('dataclasses').asdict(f()) == {'x': 1, 'y': [2]}",
    ),
    "a generator gives what it gives": ("def f(n):\n    yield from range(n)", "list(f(3)) == [0, 1, 2]"),
    "one without end is asked only so far": (
        "import itertools\ndef f(): return itertools.count(5)", "[n for n, _ in zip(f(), 'abc')] == [5, 6, 7]",
    ),
    "a function made there": ("def f(a): return lambda b: a + b", "f(2)(3) == 5"),
    "a function made here": ("def f(g, xs): return [g(x) for x in xs]", "f(lambda x: x * 2, [1, 2]) == [2, 4]"),
    "a type as argument": ("def f(kind, x): return kind(x)", "f(int, '7') == 7 and f(len, 'abc') == 3"),
    "a truth of its own": ("import re\ndef f(x): return re.match('a', x)", "f('abc') and not f('b')"),
    "methods": (
        "class Stack:\n    def __init__(self): self.all = []\n    def push(self, x): self.all.append(x)\n"
        "    def __len__(self): return len(self.all)\ndef f(): return Stack()",
        "(s := f()).push(4) is None and len(s) == 1 and s.all == [4]",
    ),
    "an object passed back": (
        "class N:\n    def __init__(self, v): self.v, self.next = v, None\n"
        "def f(n): return n.v + (f(n.next) if n.next else 0)",
        "(a := N(1), setattr(a, 'next', N(2)), f(a))[2] == 3",
    ),
    "a large text": ("def f(): return 'x' * 1_000_000", "len(f()) == 1_000_000"),
    "a result over many lines of output": ("def f():\n    print('x' * 100000)\n    return 1", "f() == 1"),
}  # fmt: skip


@pytest.mark.parametrize("name", TALKS)
def test_honest_results_are_what_they_would_be_in_one_process(name):
    solution, claim = TALKS[name]
    found = grade(Problem("f", (f"assert {claim}",)), solution, PipeSandbox())
    assert found.passed, found


def test_what_a_call_prints_is_there_for_a_test_that_looks():
    test = (
        "import contextlib, io\nsaid = io.StringIO()\nwith contextlib.redirect_stdout(said):\n    f()\n"
        "assert said.getvalue() == 'hello\\n'"
    )
    assert grade(Problem("f", (test,)), "def f(): print('hello')", PipeSandbox()).passed
    assert not grade(Problem("f", (test,)), "def f(): print('hallo')", PipeSandbox()).passed


def test_exceptions_keep_their_names():
    test = "try:\n    f(0)\nexcept {}:\n    pass\nelse:\n    raise AssertionError"
    raises = "class Odd(ValueError): pass\ndef f(x): raise Odd('no')"
    for name in ("Odd", "ValueError", "Exception"):
        assert grade(Problem("f", (test.format(name),)), raises, PipeSandbox()).passed
    assert not grade(Problem("f", (test.format("KeyError"),)), raises, PipeSandbox()).passed
    assert not grade(Problem("f", (test.format("Exception"),)), "def f(x): pass", PipeSandbox()).passed


def test_objects_of_the_tasks_own_classes_go_over_whole():
    given = "class Node:\n    def __init__(self, v, left=None):\n        self.v, self.left = v, left\n"
    tests = ("n = Node(1, Node(2))\nn.left.left = n\nassert f(n) == [1, 2, 1]",)
    right = "def f(n): return [n.v, n.left.v, n.left.left.v]"
    assert grade(Problem("f", tests, given=given), right, PipeSandbox()).passed
