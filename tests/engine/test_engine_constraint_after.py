"""Free text first, then a constrained part: the marker comes once and in time, wherever tokens begin and end."""

from __future__ import annotations

import ast
import json
import re
from typing import Any

import pytest
from tests.engine.engine_constraint_walks import TOKENIZERS, compiled, walk
from tests.engine.engine_models import llama

from rung.base.errors import ModelError, SettingsError
from rung.engine.constraints.free_text import FreeText
from rung.engine.constraints.matching import Spellings
from rung.engine.constraints.parts import Parts, parts_of
from rung.engine.constraints.protocol import Vocabulary
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.records.contracts import Request, Sampling

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}


def after(then: dict[str, Any], marker: str = "</t>", **more: Any) -> dict[str, Any]:
    return {"after": {"marker": marker, "then": then, **more}}


def token_of(spec: dict[str, Any], data: bytes) -> int:
    tokens: tuple[bytes | None, ...] = compiled(spec).vocabulary.tokens  # type: ignore[attr-defined]
    return tokens.index(data)


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize("marker", ["</t>", "aab", "日本", '{"', "x"])
@pytest.mark.parametrize(
    ("then", "accepts"),
    [
        ({"json_schema": SCHEMA}, lambda text: isinstance(json.loads(text)["a"], int)),
        ({"python": {}}, lambda text: ast.parse(text)),
        ({"choice": ["日本", "b", "ab"]}, lambda text: text in ("日本", "b", "ab")),
        ({"regex": "x+>|é"}, lambda text: re.fullmatch("x+>|é", text)),
    ],
    ids=["schema", "python", "choice", "regex"],
)
def test_random_texts_hold_both_parts_at_every_limit(
    then: dict[str, Any], accepts: Any, marker: str, kind: str
) -> None:
    tokenizer = TOKENIZERS[kind]()
    spec = after(then, marker)
    constraint = compiled(spec, tokenizer)
    least = constraint.start().shortest()
    assert least is not None
    for seed, more in enumerate((0, 1, 2, 5, 11, 60)):
        parts = parts_of(walk(constraint, least + more, seed, tokenizer).decode(), spec)
        assert parts.answer is not None
        assert accepts(parts.answer) is not False


def test_the_marker_is_forced_when_its_tokens_are_used_up() -> None:
    for at_most in (4, 7, 20):
        constraint = compiled(after({"regex": "(ab)*"}, at_most=at_most))
        counts = [len(drawn_free(constraint, seed)) for seed in range(20)]
        assert max(counts) <= at_most
    endless = [len(drawn_free(compiled(after({"regex": "(ab)*"})), seed)) for seed in range(3)]
    assert max(endless) > 20


def drawn_free(constraint: Any, seed: int) -> list[int]:
    """Tokens drawn till the marker is there, or the limit is."""
    state, drawn, text = constraint.start(), list[int](), b""
    while b"</t>" not in text:
        allowed = state.allowed(120 - len(drawn)).nonzero()[:, 0]
        drawn.append(int(allowed[(seed * 7919 + len(drawn) * 31) % len(allowed)]))
        state.advance(drawn[-1])
        text += constraint.vocabulary.tokens[drawn[-1]]
    return drawn


def test_without_at_most_the_free_part_goes_on_till_the_limit_needs_the_marker() -> None:
    spec = after({"choice": ["qz"]}, marker="|")
    state, a = compiled(spec).start(), token_of(spec, b"a")
    bar = token_of(spec, b"|")
    for step in range(27):
        assert state.allowed(30 - step)[a]
        state.advance(a)
    assert state.shortest() == 3
    assert state.allowed(3).nonzero()[:, 0].tolist() == [bar]
    state.advance(bar)
    assert not state.allowed(2)[a]


def test_a_token_may_end_the_marker_and_begin_what_comes_then_if_that_is_allowed() -> None:
    tokens = compiled({"json": True}).vocabulary.tokens  # type: ignore[attr-defined]
    whole = next(data for data in tokens if data and len(data) > 2 and data.isalpha())
    marker, rest = whole[:2].decode(), whole[2:].decode()
    fits, other = after({"choice": [rest + "!"]}, marker), after({"choice": ["!"]}, marker)
    token = token_of(fits, whole)
    assert compiled(fits).start().allowed(50)[token]
    assert not compiled(other).start().allowed(50)[token]
    state = compiled(fits).start()
    state.advance(token)
    assert state.forced() == b"!"
    with pytest.raises(ModelError, match="does not fit"):
        compiled(other).start().advance(token)


def test_only_the_first_marker_counts_and_parts_of_it_are_text() -> None:
    spec = after({"regex": "[a<]+"}, marker="<<t")
    singles = {byte: token_of(spec, bytes([byte])) for byte in b"<ta"}
    state = compiled(spec).start()
    for byte in b"<<<t":
        assert not state.complete()
        state.advance(singles[byte])
    assert not state.allowed(20)[singles[ord("t")]], "the constrained part has begun"
    state.advance(singles[ord("a")])
    assert state.complete()


def test_half_a_character_never_stands_before_the_marker() -> None:
    spec = after({"choice": ["a"]}, marker="|")
    state = compiled(spec).start()
    state.advance(token_of(spec, b"\xe6"))
    assert state.shortest() == 2 + 1 + 1
    followers = state.allowed(9).nonzero()[:, 0].tolist()
    tokens = compiled(spec).vocabulary.tokens  # type: ignore[attr-defined]
    assert all(0x80 <= tokens[token][0] <= 0xBF for token in followers)


def test_a_random_model_thinks_and_answers_and_neighbours_are_free() -> None:
    engine = Engine(llama(), EngineSettings(num_slots=8))
    spec = after({"json_schema": SCHEMA}, at_most=12)
    warm = Sampling(temperature=5.0, max_new_tokens=40)
    asked = [Request(str(i), warm, i, f"say {i}", constraint=spec if i % 2 else None) for i in range(16)]
    done = engine.complete(asked)
    for one in done[1::2]:
        parts = parts_of(one.text, spec)
        assert isinstance(json.loads(parts.answer or "")["a"], int)
        assert one.complete is True
        assert one.text == f"{parts.free}</t>{parts.answer}"
        assert one.text[parts.start :] == parts.answer
    assert all(one.complete is None for one in done[::2])
    assert any(parts_of(one.text, spec).free for one in done[1::2])


def test_a_limit_below_both_parts_is_refused() -> None:
    asked = Request("a", Sampling(max_new_tokens=5), text="x", constraint=after({"choice": ["no"]}))
    with pytest.raises(SettingsError) as caught:
        Engine(llama()).complete([asked])
    assert caught.value.hint == "set max_new_tokens to 6 or more"


def test_after_may_stand_inside_after() -> None:
    spec = after(after({"choice": ["x"]}, marker="2."), marker="1.")
    text = walk(compiled(spec), 30, 3).decode()
    assert re.fullmatch(r"(?s).*?1\..*?2\.x", text)


def test_parts_of_texts_without_a_marker() -> None:
    assert parts_of("abc", {"json": True}) == Parts("", "abc", 0)
    assert parts_of("abc", None) == Parts("", "abc", 0)
    assert parts_of("abc", after({"json": True})) == Parts("abc", None, 3)


@pytest.mark.parametrize(
    ("spec", "place"),
    [
        ({"after": "x"}, "after"),
        (after({"json": True}, marker=""), "after.marker"),
        (after({"json": True}, marker="\ud800"), "after.marker"),
        (after({"json": 3}), "after.then.json"),
        (after({}), "after.then"),
        (after({"jsn": True}), "after.then"),
        (after({"json_schema": {"type": "text"}}), "after.then.json_schema#/type"),
        (after({"json": True}, at_most=0), "after.at_most"),
        (after({"json": True}, at_most=3), "after.at_most"),
        (after({"json": True}, most=3), "after.most"),
    ],
    ids=str,
)
def test_wrong_settings_are_refused_with_their_place(spec: dict[str, Any], place: str) -> None:
    with pytest.raises(SettingsError) as caught:
        compiled(spec)
    assert caught.value.place == f"request 'a': constraint.{place}"


def test_a_marker_that_no_tokens_spell_is_refused() -> None:
    with pytest.raises(SettingsError, match="cannot spell the marker"):
        FreeText(b"ab", Spellings(Vocabulary((b"a", b"c"), ())))
