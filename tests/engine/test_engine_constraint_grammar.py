"""Grammars without a model: random walks end in texts that independent checkers accept, for limits from just enough."""

from __future__ import annotations

import itertools
import json
import re
from typing import Any

import jsonschema
import pytest
import torch
import xgrammar
from tests.engine.engine_constraint_walks import TOKENIZERS, byte_level, compiled, walk
from xgrammar.testing import _is_grammar_accept_string, bitmask_to_bool_mask

from rung.base.errors import MissingDependency, ModelError, SettingsError
from rung.base.lookup import known
from rung.engine.constraints import xgrammar as reading
from rung.engine.constraints.compiling import FOLDER, Compiler
from rung.engine.constraints.matching import GrammarConstraint

GRAMMARS = {
    "arithmetic": r"""
# sums over several lines
root ::= (sum "=" [ ]? number "\n")+
sum ::= sum [-+] product | product
product ::= product [*/] atom | atom
atom ::= number | "(" sum ")"
number ::= "0" | [1-9] [0-9]{0,3}
""",
    "list": r"""root ::= item+
# one line each
item ::= "- " [^\r\n\x0b\x0c\u0085\u2028\u2029]+ "\n"
""",
    "chess": r"""root ::= "1. " move " " move "\n" ([1-9] [0-9]? ". " move " " move "\n")*
move ::= (pawn | piece | "O-O" "-O"?) [+#]?
piece ::= [NBRQK] [a-h]? [1-8]? "x"? [a-h] [1-8]
pawn ::= ([a-h] "x")? [a-h] [1-8] ("=" [NBRQ])?
""",
    "declarations": r"""root ::= (declaration)*
declaration ::= type " " name "(" parameter? ")" "{" statement* "}"
type ::= "int" | "float" | "char"
name ::= [a-zA-Z_] [a-zA-Z_0-9]*
parameter ::= type " " name
statement ::= type " " name " = " expression ";" | name " = " expression ";" | "return " expression ";"
expression ::= term ([-+] term)*
term ::= name | [0-9]+ | "(" expression ")" | "-" term
""",
    "array": r"""root ::= "[" ws (value ("," ws value)*)? "]"
value ::= "[" ws (value ("," ws value)*)? "]" | string | "true" | "false" | "null" | "-"? ([0-9] | [1-9] [0-9]{1,5})
string ::= "\"" ([^"\\\x7F\x00-\x1F] | "\\" (["\\bfnrt] | "u" [0-9a-fA-F]{4}))* "\""
ws ::= [ \t]{0,2}
""",
}
LEAF = {"type": "object", "properties": {"v": {"type": ["integer", "null"]}}, "required": ["v"]}
SCHEMAS: dict[str, Any] = {
    "nested": {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, "answer": LEAF, "tags": {"type": "array", "items": LEAF}},
        "required": ["reasoning", "answer"],
    },
    "recursive": {
        "$ref": "#/$defs/tree",
        "$defs": {
            "tree": {
                "type": "object",
                "properties": {
                    "leaf": {"type": "boolean"},
                    "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}, "maxItems": 3},
                },
                "required": ["leaf"],
                "additionalProperties": False,
            }
        },
    },
    "bounds": {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": -17, "maximum": 1234},
            "code": {"type": "string", "minLength": 2, "maxLength": 5},
            "pair": {"type": "array", "items": {"type": "number"}, "minItems": 2, "maxItems": 3},
        },
        "required": ["pair", "age", "code"],
    },
    "union": {
        "type": "array",
        "items": {"anyOf": [{"enum": ["ä", 'q"\\', 3, None]}, {"const": {"k": [1, 2]}}, LEAF, {"type": "boolean"}]},
    },
    "optional": {
        "type": "object",
        "properties": {name: {"type": "integer", "exclusiveMinimum": 8, "exclusiveMaximum": 101} for name in "a/~b"},
        "required": ["~"],
    },
}
LIMITS = (0, 0, 1, 2, 3, 5, 8, 13, 40, 190)


def strict(text: str) -> Any:
    """Load as the standard does: no constants that are not JSON, no key twice."""

    def apart(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
        assert len({key for key, _ in pairs}) == len(pairs), text
        return dict(pairs)

    def refuse(name: str) -> Any:
        raise AssertionError(name)

    return json.loads(text, parse_constant=refuse, object_pairs_hook=apart)


def texts(spec: dict[str, Any], kind: str = "byte_level") -> list[str]:
    """Texts at limits from the smallest that suffices."""
    tokenizer = TOKENIZERS[kind]()
    constraint = compiled(spec, tokenizer)
    least = constraint.start().shortest()
    assert least is not None
    limits = [max(1, least + more) for more in LIMITS] * 4
    return [walk(constraint, limit, seed, tokenizer).decode() for seed, limit in enumerate(limits)]


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize("name", sorted(GRAMMARS))
def test_gbnf_texts_are_of_the_language(name: str, kind: str) -> None:
    grammar = xgrammar.Grammar.from_ebnf(GRAMMARS[name])
    made = texts({"gbnf": GRAMMARS[name]}, kind)
    assert all(_is_grammar_accept_string(grammar, text) for text in made)
    assert len(set(made)) > 8


@pytest.mark.parametrize("kind", sorted(TOKENIZERS))
@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_schema_texts_are_accepted_by_an_independent_validator(name: str, kind: str) -> None:
    made = texts({"json_schema": SCHEMAS[name]}, kind)
    for text in made:
        jsonschema.validate(strict(text), SCHEMAS[name])
    assert len(set(made)) > 4


def test_json_texts_load() -> None:
    for what, types in ((True, (object,)), ("object", (dict,)), ("array", (list,))):
        made = texts({"json": what})
        assert all(isinstance(json.loads(text), types) for text in made)
        assert all(json.dumps(json.loads(text), ensure_ascii=False).encode() for text in made)


@pytest.mark.parametrize(
    "pattern", [r"[a-c]{2,4}(foo|bar)+\d*", r"\d{4}-(0[1-9]|1[0-2])", r"(?:é|日|x)+y?", r"[^a-zé]{3}.", r"(a|b|ab)*c"]
)
def test_regex_texts_match(pattern: str) -> None:
    made = texts({"regex": pattern})
    assert all(re.fullmatch(pattern, text, re.DOTALL | re.ASCII) for text in made)


def test_every_choice_can_be_made_and_nothing_else() -> None:
    choices = ["yes", "no", "not sure", "日本", "true"]
    constraint = compiled({"choice": choices})
    made = texts({"choice": choices}) + [walk(constraint, 12, seed).decode() for seed in range(60)]
    assert set(made) == set(choices)


@pytest.mark.parametrize("least", [0, 1, 7, 10, 99, 100, 123, 999])
@pytest.mark.parametrize("width", [0, 1, 9, 57, 400])
def test_integer_ranges_hold_exactly_what_they_should(least: int, width: int) -> None:
    for low, high in ((least, least + width), (-least - width, -least), (-least, width)):
        grammar = compiled({"json_schema": {"type": "integer", "minimum": low, "maximum": high}})
        assert isinstance(grammar, GrammarConstraint)
        for number in {low - 1, low, low + 1, (low + high) // 2, high - 1, high, high + 1, 0, -1}:
            place = grammar.grammar.start.after(str(number).encode())
            assert (place is not None and place.cost == 0) == (low <= number <= high), number


@pytest.mark.parametrize("name", sorted(GRAMMARS))
def test_far_from_the_limit_masks_equal_those_of_xgrammar(name: str) -> None:
    constraint = compiled({"gbnf": GRAMMARS[name]})
    tokens = constraint.vocabulary.tokens  # type: ignore[attr-defined]
    info = xgrammar.TokenizerInfo([data or b"" for data in tokens], stop_token_ids=[1])
    theirs = xgrammar.GrammarMatcher(xgrammar.GrammarCompiler(info, max_threads=1).compile_grammar(GRAMMARS[name]))
    bits = xgrammar.allocate_token_bitmask(1, len(tokens))
    # halves of surrogates are no UTF-8, and its classes hold them
    spares = torch.tensor([data is not None and b"\xed" in data for data in tokens])
    state, chance = constraint.start(), torch.Generator().manual_seed(4)
    for _ in range(60):
        theirs.fill_next_token_bitmask(bits)
        mask = state.allowed(100_000)
        assert torch.equal(mask | spares, bitmask_to_bool_mask(bits, len(tokens))[0] | spares)
        choices = (mask & ~spares).nonzero()[:, 0]
        token = int(choices[int(torch.randint(len(choices), (), generator=chance))])
        if token == 1:
            break
        assert theirs.accept_token(token)
        state.advance(token)


def test_the_mask_depends_on_the_state_and_tokens_span_symbols() -> None:
    constraint = compiled({"gbnf": r'root ::= "{" "\"na" "me\": " [0-9] "}"'})
    tokens = constraint.vocabulary.tokens  # type: ignore[attr-defined]
    state = constraint.start()
    seen = []
    while not state.over():
        allowed = state.allowed(30).nonzero()[:, 0].tolist()
        seen.append({tokens[i] for i in allowed})
        state.advance(max(allowed, key=lambda i: len(tokens[i] or b"")))
    assert any(len(token) > 2 for token in seen[0] if token)
    assert all(a != b for a, b in itertools.pairwise(seen))


def test_half_a_surrogate_is_never_begun() -> None:
    state = compiled({"regex": ".{2}"}).start()
    tokens = state._constraint.vocabulary.tokens  # type: ignore[attr-defined]
    state.advance(tokens.index(b"\xed"))
    followers = {tokens[i] for i in state.allowed(9).nonzero()[:, 0].tolist()}
    assert bytes([0x9F]) in followers
    assert bytes([0xA0]) not in followers


def test_escapes_surrogate_pairs_and_long_numbers() -> None:
    grammar = compiled({"json": True})
    assert isinstance(grammar, GrammarConstraint)
    start = grammar.grammar.start
    for whole in (r'"\"\\\/\b\u00e9"', r'"\ud83d\ude00"', "-123456789012345.5e-99", '"' + "x" * 500 + '"'):
        place = start.after(whole.encode())
        assert place is not None, whole
        assert place.cost == 0
        json.loads(whole)
    for broken in (r'"\ud83d"', r'"\ude00', r'"\x', "1e999", "01", "1234567890123456", '"\t', "NaN", "Infinity", "1."):
        place = start.after(broken.encode())
        assert place is None or place.cost > 0, broken


def test_the_number_of_tokens_to_the_end_is_enough_and_tight() -> None:
    tokenizer = byte_level()
    state = compiled({"choice": ["hello wörld", "日本 日本 日本"]}, tokenizer).start()
    assert state.shortest() == min(len(tokenizer.encode(text)) for text in ("hello wörld", "日本 日本 日本"))
    for seed in range(20):
        constraint = compiled({"gbnf": GRAMMARS["declarations"]}, tokenizer)
        assert walk(constraint, 1, seed) == b""
    with pytest.raises(ModelError, match="no token fits"):
        state.allowed(1)


def test_forced_bytes_are_those_without_a_choice() -> None:
    state = compiled({"json_schema": SCHEMAS["nested"]}).start()
    assert state.forced() == b'{"reasoning": "'
    assert compiled({"choice": ["yes", "yesterday"]}).start().forced() == b"yes"
    assert compiled({"json": True}).start().forced() == b""


def test_left_recursion_empty_rules_and_dead_ends() -> None:
    state = compiled({"gbnf": 'root ::= root "+" root | "a" | "(" root ")" | none\nnone ::= ""'}).start()
    assert state.complete()
    assert not state.over()
    for text in ('root ::= "a" root', 'root ::= "a" | other\nother ::= other "b"'):
        if "|" not in text:
            with pytest.raises(SettingsError, match="no text that ends"):
                compiled({"gbnf": text})
            continue
        tokens = compiled({"gbnf": text}).start().allowed(50).nonzero()[:, 0]
        assert len(tokens) == 1, "the branch that never ends is not entered"


# -- refusals


@pytest.mark.parametrize(
    ("spec", "wanted"),
    [
        ({}, "0 kinds are given"),
        ({"json": True, "regex": "a"}, "2 kinds are given"),
        ({"jsn": True}, "did you mean 'json'"),
        ({"os:system": 1}, "no kind of constraint"),
        ({"choice": []}, "an empty choice"),
        ({"choice": ["a", ""]}, "an empty choice"),
        ({"choice": "abc"}, "no list of strings"),
        ({"json": 3}, "is not known"),
        ({"regex": "a(b"}, "line 1, column 4: The parenthesis"),
        ({"regex": r"(a)\1"}, "Backreference"),
        ({"regex": ""}, "is no regular expression"),
        ({"gbnf": 'root ::= "a" | b\nb ::= [a-z\n'}, "line 2, column 11"),
        ({"gbnf": 'root ::= "a" | b\n'}, 'line 1, column 16: Rule "b" is not defined'),
        ({"gbnf": 'x ::= "a"'}, "root"),
        ({"gbnf": 'root ::= "a" (="b")'}, "look-ahead"),
        ({"gbnf": 'root ::= Regex("a+")'}, "not supported"),
        ({"gbnf": "root ::= [a-z]{200000}"}, "too large"),
    ],
    ids=str,
)
def test_wrong_rules_are_refused_with_their_place(spec: dict[str, Any], wanted: str) -> None:
    with pytest.raises(SettingsError) as caught:
        compiled(spec)
    assert wanted in str(caught.value)
    assert caught.value.place.startswith("request 'a': constraint")


STRING = {"type": "string"}


@pytest.mark.parametrize(
    ("schema", "pointer"),
    [
        ({"type": "array", "items": STRING, "uniqueItems": True}, "#/uniqueItems"),
        ({"type": "object", "properties": {"a/b": {**STRING, "pattern": "x"}}}, "#/properties/a~1b/pattern"),
        ({"type": "object", "properties": {"a": {"type": "number", "minimum": 1}}}, "#/properties/a/minimum"),
        ({"not": STRING}, "#/type"),
        ({**STRING, "not": {"const": "a"}}, "#/not"),
        ({"oneOf": [STRING]}, "#/type"),
        ({"anyOf": [STRING, {**STRING, "format": "date"}]}, "#/anyOf/1/format"),
        ({"anyOf": [STRING], "maxLength": 3}, "#/maxLength"),
        ({"type": "integer", "multipleOf": 5}, "#/multipleOf"),
        ({"type": "object", "properties": {}, "additionalProperties": True}, "#/additionalProperties"),
        ({"type": "object", "properties": {}, "patternProperties": {}}, "#/patternProperties"),
        ({"type": "object", "properties": {}, "required": ["a"]}, "#/required"),
        ({"type": "array"}, "#/items"),
        ({"type": "array", "items": STRING, "minItems": 3, "maxItems": 2}, "#/maxItems"),
        ({"type": "integer", "minimum": 4, "maximum": 3}, "#"),
        ({"type": "integer", "minimum": 1.5}, "#/minimum"),
        ({"type": "text"}, "#/type"),
        ({"enum": []}, "#/enum"),
        ({"enum": [1], "type": "string"}, "#/enum"),
        ({"const": float("nan")}, "#/const"),
        ({"$ref": "http://example.org/x"}, "#/$ref"),
        ({"$ref": "#/$defs/x"}, "#/$ref"),
        ({}, "#/type"),
        (True, "#"),
    ],
    ids=str,
)
def test_schema_keywords_that_are_not_enforced_are_refused_by_place(schema: Any, pointer: str) -> None:
    with pytest.raises(SettingsError) as caught:
        compiled({"json_schema": schema})
    assert caught.value.place == f"request 'a': constraint.json_schema{pointer}"
    assert caught.value.hint


def test_a_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingDependency, match=r"rung\[grammars\]"):
        compiled({"regex": "a"})
    assert compiled({"json": True})


def test_a_rule_is_compiled_once_and_kinds_are_files() -> None:
    tokenizer = byte_level()
    compiler = Compiler(tokenizer, 400)
    assert compiler.compile({"json": True}, "a") is compiler.compile({"json": True}, "b")
    assert {"after", "choice", "gbnf", "json", "json_schema", "python", "regex"} == set(known(FOLDER))
