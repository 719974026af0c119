"""A random-logit model under the Python constraint: every text parses, at every limit, after every prefix."""

from __future__ import annotations

import ast
import random
import warnings

import pytest
from tests.engine.python_programs import VOCABULARY, bytes_of, drawn

from rung.base.errors import ModelError, SettingsError
from rung.engine.constraints.protocol import Constraint, Vocabulary
from rung.engine.constraints.python import compile_python, parser

PREFIXES = ("", "def f(x):\n  '''doc\n", "try:\n   x = [f\"{a['b']!r:>{w}}\",\n")


@pytest.fixture(scope="module", params=range(len(PREFIXES)))
def prefix(request: pytest.FixtureRequest) -> str:
    return PREFIXES[request.param]


@pytest.fixture(scope="module")
def constraint(prefix: str) -> Constraint:
    return compile_python({"prefix": prefix}, VOCABULARY)


def test_random_programs_parse_without_a_warning(prefix: str, constraint: Constraint) -> None:
    shortest = constraint.start().shortest() or 1
    for seed in range(67):
        draw = random.Random(seed)
        limit = draw.randint(shortest, 200) if seed % 2 else shortest + seed // 2
        text = prefix + drawn(constraint.start(), limit, draw, prefer_long=seed % 3 > 0)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            assert isinstance(ast.parse(text), ast.Module)


def test_a_mask_is_what_trying_every_token_gives(constraint: Constraint) -> None:
    draw = random.Random(1)
    for left in (12, 40, 90):
        state, taken = constraint.start(), []
        left = max(left, state.shortest() or 0)
        for step in range(8):
            allowed = state.allowed(left - step)
            for token in draw.sample(range(len(VOCABULARY.tokens)), 60):
                assert bool(allowed[token]) == tried(constraint, [*taken, token], left - step - 1), bytes_of(token)
            taken.append(draw.choice([t for t in allowed.nonzero()[:, 0].tolist() if t not in VOCABULARY.end_ids]))
            state.advance(taken[-1])


def tried(constraint: Constraint, tokens: list[int], left: int) -> bool:
    """Whether a fresh state takes the tokens and can then be completed with `left` more."""
    state = constraint.start()
    if tokens[-1] in VOCABULARY.end_ids:
        for token in tokens[:-1]:
            state.advance(token)
        return state.complete()
    try:
        for token in tokens:
            state.advance(token)
    except ModelError:
        return False
    shortest = state.shortest()
    return shortest is not None and shortest <= left


def test_too_few_tokens_are_a_dead_end_that_raises() -> None:
    state = compile_python({"prefix": "def f(x):\n    return x if"}, VOCABULARY).start()
    assert state.shortest() == len(" a else b ")
    with pytest.raises(ModelError, match="10 tokens complete the program and 3 are left"):
        state.allowed(3)


def test_the_indentation_of_the_prefix_goes_on() -> None:
    state = compile_python({"prefix": "if a:\n  b\n"}, VOCABULARY).start()
    for byte in b"if c:\n":
        state.advance(byte)
    assert not state.complete()
    assert not state.allowed(50)[ord("x")]
    state.advance(ord(" "))
    assert not state.allowed(50)[ord("x")]
    state.advance(ord(" "))
    assert state.allowed(50)[ord("x")]


def test_a_line_too_long_for_one_tree_is_brought_to_an_end() -> None:
    state = compile_python({"prefix": "x = " + "-" * 1100}, VOCABULARY).start()
    assert not state.allowed(500)[ord("-")]
    state.advance(ord("y"))
    assert state.over()
    assert state.allowed(500).nonzero()[:, 0].tolist() == list(VOCABULARY.end_ids)


@pytest.mark.parametrize(
    ("text", "where"),
    [
        ("x = = 1\n", "line 1, column 6"),
        ("if x:\n    y\n  z\n", "line 3, column 3"),
        ("a = '\\x4g'", "line 1, column 9"),
    ],
)
def test_a_prefix_that_starts_no_program_is_refused_with_its_place(text: str, where: str) -> None:
    with pytest.raises(SettingsError, match=where):
        compile_python({"prefix": text}, VOCABULARY)


def test_a_vocabulary_that_cannot_close_a_program_is_refused() -> None:
    without = tuple(None if word == b":" else word for word in VOCABULARY.tokens)
    with pytest.raises(ModelError, match="':'"):
        compile_python({}, Vocabulary(without, VOCABULARY.end_ids))


def test_half_a_character_is_drawn_only_where_it_can_be_finished() -> None:
    lacking = tuple(None if word and 0x80 <= word[0] < 0xC0 else word for word in VOCABULARY.tokens)
    whole = compile_python({"prefix": "'"}, VOCABULARY).start().allowed(9)
    halved = compile_python({"prefix": "'"}, Vocabulary(lacking, VOCABULARY.end_ids)).start().allowed(9)
    assert whole[0xC3]
    assert not halved[0xC3]


def test_forgetting_places_changes_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """Memory is bounded: what was made is dropped and made again, and a sequence under way goes on."""
    kept = drawn(compile_python({}, VOCABULARY).start(), 40, random.Random(5), prefer_long=True)
    monkeypatch.setattr(parser, "_MOST_PLACES", 20)
    forgetful = compile_python({}, VOCABULARY)
    assert drawn(forgetful.start(), 40, random.Random(5), prefer_long=True) == kept
    assert forgetful.start().shortest() == 0
