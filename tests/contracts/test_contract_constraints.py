"""Every kind of constraint keeps the promise: texts drawn at random are whole texts of its language."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from tests.engine.engine_constraint_walks import TOKENIZERS, walk

from rung.base.errors import SettingsError
from rung.base.lookup import known
from rung.engine.constraints.compiling import FOLDER, Compiler

SCHEMA = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
AFTER = {"marker": "</t>", "then": {"json_schema": SCHEMA}, "at_most": 9}
KINDS: Mapping[str, tuple[Any, Callable[[str], Any]]] = {
    "after": (AFTER, lambda text: isinstance(json.loads(text.partition("</t>")[2])["a"], int)),
    "choice": (["yes", "no"], lambda text: text in ("yes", "no")),
    "gbnf": ('root ::= "(" root ")" | "x"', lambda text: re.fullmatch(r"\(*x\)*", text)),
    "json": (True, lambda text: json.loads(text) is not Ellipsis),
    "json_schema": (SCHEMA, lambda text: isinstance(json.loads(text)["a"], int)),
    "python": ({}, lambda text: ast.parse(text)),
    "regex": ("(ab|c){2,3}", lambda text: re.fullmatch("(ab|c){2,3}", text)),
}


def test_every_kind_is_here() -> None:
    assert sorted(KINDS) == known(FOLDER)


@pytest.mark.parametrize("tokens", sorted(TOKENIZERS))
@pytest.mark.parametrize("kind", sorted(KINDS))
def test_random_texts_are_whole_at_every_limit(kind: str, tokens: str) -> None:
    what, accepts = KINDS[kind]
    tokenizer = TOKENIZERS[tokens]()
    constraint = Compiler(tokenizer, tokenizer.vocabulary_size + 5).compile({kind: what}, "request 'a'")
    least = constraint.start().shortest()
    assert least is not None
    for seed in range(15):
        text = walk(constraint, max(1, least + seed), seed, tokenizer).decode()
        assert accepts(text), text


@pytest.mark.parametrize("kind", sorted(set(KINDS) - {"python"}))
def test_nonsense_is_refused_with_the_place(kind: str) -> None:
    tokenizer = TOKENIZERS["byte_level"]()
    with pytest.raises(SettingsError) as caught:
        Compiler(tokenizer, 400).compile({kind: 3.5}, "request 'a'")
    assert caught.value.place.startswith(f"request 'a': constraint.{kind}")
