"""Parse trees of texts, and the one call that gives texts, trees and what the masks did."""

from __future__ import annotations

import ast
import itertools
import json
import math
from collections.abc import Iterator, Sequence
from typing import Any

import pytest
from tests.engine.engine_constraint_walks import compiled, walk
from tests.engine.engine_models import START, full_logits, llama
from tests.engine.test_engine_constraint_grammar import GRAMMARS, SCHEMAS

from rung.base.errors import DataError
from rung.engine.constraints.obeying import complete_within, meaning_of
from rung.engine.constraints.text import Rules, read_rules
from rung.engine.constraints.tree import Node, parse
from rung.engine.constraints.xgrammar import rules_of_ebnf
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.records.contracts import Completion, Request, Sampling

SCHEMA = {
    "type": "object",
    "properties": {"a": {"type": "string"}, "n": {"type": "array", "items": {"type": "integer"}}},
    "required": ["a", "n"],
}
WIDTH = 300  # of the tiny model's logits
PLAIN = Sampling(temperature=1.0, max_new_tokens=40)


def outline(node: Node, text: str) -> Any:
    """Nested lists of rule and text."""
    return [node.rule, text[node.start : node.stop], *(outline(child, text) for child in node.children)]


def every(node: Node) -> Iterator[Node]:
    waiting = [node]
    while waiting:
        yield (one := waiting.pop())
        waiting += one.children


def sound(node: Node, text: str) -> bool:
    """Children lie in their parent, in order and apart."""
    edges = [(one.start, *((c.start, c.stop) for c in one.children), one.stop) for one in every(node)]
    flat = [[e[0], *itertools.chain(*e[1:-1]), e[-1]] for e in edges]
    return (node.start, node.stop) == (0, len(text)) and all(row == sorted(row) for row in flat)


def test_a_tree_names_the_rules_of_the_user_alone() -> None:
    rules = rules_of_ebnf('root ::= (item ","?)+ end*\nitem ::= [é-ü]{2} | word\nword ::= [a-z]+\nend ::= "."')
    text = "éü,abc.."
    assert outline(parse(rules, text), text) == [
        "root", text, ["item", "éü"], ["item", "abc", ["word", "abc"]], ["end", "."], ["end", "."],
    ]  # fmt: skip


def test_recursion_to_both_sides_empty_rules_and_ambiguity() -> None:
    left = rules_of_ebnf('root ::= root "+" n | n\nn ::= [0-9]')
    assert outline(parse(left, "1+2"), "1+2") == ["root", "1+2", ["root", "1", ["n", "1"]], ["n", "2"]]
    right = rules_of_ebnf('root ::= n "+" root | n\nn ::= [0-9]')
    assert outline(parse(right, "1+2"), "1+2") == ["root", "1+2", ["n", "1"], ["root", "2", ["n", "2"]]]
    empty = rules_of_ebnf('root ::= none "a" none none\nnone ::= ""')
    assert [one.rule for one in parse(empty, "a").children] == ["none"] * 3
    both = rules_of_ebnf('root ::= root root | "a" | root')
    assert sound(parse(both, "aaaaa"), "aaaaa")


def test_long_repetitions_are_read_in_time_and_depth() -> None:
    rules = rules_of_ebnf('root ::= "[" char* "]"\nchar ::= [a-zé]')
    text = f"[{'é' * 4000}]"
    assert len(parse(rules, text).children) == 4000
    deep = parse(rules_of_ebnf('root ::= "(" root ")" | "x"'), "(" * 3000 + "x" + ")" * 3000)
    assert sum(1 for _ in every(deep)) == 3001


@pytest.mark.parametrize("name", sorted(GRAMMARS))
def test_every_text_of_a_grammar_has_a_sound_tree(name: str) -> None:
    constraint = compiled({"gbnf": GRAMMARS[name]})
    rules: Rules = constraint.rules  # type: ignore[attr-defined]
    for seed in range(12):
        text = walk(constraint, 30 + seed, seed).decode()
        node = parse(rules, text)
        assert sound(node, text)
        assert {one.rule for one in every(node)} <= set(rules.shown)
        defined = [line.split(" ::= ")[0] for line in GRAMMARS[name].split("\n") if " ::= " in line]
        assert set(rules.shown) == set(defined)


@pytest.mark.parametrize("name", sorted(SCHEMAS))
def test_a_schemas_tree_finds_every_value_by_its_pointer(name: str) -> None:
    constraint = compiled({"json_schema": SCHEMAS[name]})
    for seed in range(6):
        text = walk(constraint, 60, seed).decode()
        node = parse(constraint.rules, text)  # type: ignore[attr-defined]
        assert sound(node, text)
        values = [json.loads(text[one.start : one.stop]) for one in every(node)]
        assert values[0] == json.loads(text)


def test_a_tree_by_pointers() -> None:
    text = '{"a": "é", "n": [1, 22]}'
    rules: Rules = compiled({"json_schema": SCHEMA}).rules  # type: ignore[attr-defined]
    [node] = parse(rules, text).children
    assert outline(node, text) == [
        "#", text, ["#/properties/a", '"é"'],
        ["#/properties/n", "[1, 22]", ["#/properties/n/items", "1"], ["#/properties/n/items", "22"]],
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "place"), [("1+", "line 1, column 3"), ("1+é", "line 1, column 3"), ("1+2\n3", "line 1, column 4")]
)
def test_what_is_no_text_of_the_rules_is_refused_with_its_place(text: str, place: str) -> None:
    with pytest.raises(DataError) as caught:
        parse(rules_of_ebnf('root ::= root "+" n | n\nn ::= [0-9]'), text)
    assert caught.value.place == place


def test_rules_read_from_their_notation_show_themselves() -> None:
    text = '{"k": [1, null]}'
    node = parse(compiled({"json": True}).rules, text)  # type: ignore[attr-defined]
    assert {"value", "object", "member", "array", "null"} <= {one.rule for one in every(node)}
    assert parse(read_rules('root ::= "a"'), "a") == Node("root", 0, 1)


# -- one call


@pytest.fixture(scope="module")
def engine() -> Engine:
    return Engine(llama(), EngineSettings(num_slots=8))


def test_one_call_gives_text_tree_and_mask_figures(engine: Engine) -> None:
    grammar = {"gbnf": 'root ::= "sum: " n ("+" n)*\nn ::= [0-9]{1,2}'}
    found = complete_within(engine, ["add", "count"], grammar, PLAIN, seed=3)
    for one in found:
        assert one.text.startswith("sum: ")
        assert one.meaning is not None
        assert one.meaning.tree is not None
        numbers = [one.text[c.start : c.stop] for c in one.meaning.tree.children]
        assert "+".join(numbers) == one.text.removeprefix("sum: ")
        assert len(one.masks.allowed) == len(one.masks.kept) == len(one.completion.token_ids)
        assert one.masks.num_forced >= len("sum: ")
        assert one.masks.allowed[0] == 1 / WIDTH
    assert found[0].completion == engine.complete([Request("0", PLAIN, 3, "add", constraint=grammar)])[0]


def test_kept_probability_is_the_mass_of_allowed_tokens(engine: Engine) -> None:
    made, spec = llama(), {"regex": "[abc]{2}[0-9a-z]{3}"}
    [one] = complete_within(engine, ["say 0"], spec, PLAIN)
    ids = [START, *made.tokenizer.encode("say 0")]
    logits_TV = full_logits(made.network, [*ids, *one.completion.token_ids])[len(ids) - 1 : -1]
    state = engine.intake.compiler.compile(spec, "a").start()
    for place, token in enumerate(one.completion.token_ids):
        mask_V = state.allowed(40 - place)
        assert one.masks.allowed[place] == int(mask_V.sum()) / WIDTH
        mass = float(logits_TV[place].softmax(-1)[mask_V].sum())
        assert one.masks.kept[place] == pytest.approx(mass, rel=1e-3)
        state.advance(token)
    assert one.masks.mean_kept == pytest.approx(sum(one.masks.kept) / 5)
    assert one.masks.mean_allowed == pytest.approx((3 + 3 + 36 * 3) / 5 / WIDTH)


def test_kept_probability_is_not_told_where_the_draw_hides_it(engine: Engine) -> None:
    for sampling in (Sampling(max_new_tokens=9), Sampling(temperature=1.0, top_p=0.9, max_new_tokens=9)):
        [one] = complete_within(engine, ["x"], {"json": True}, sampling)
        assert one.masks.kept == ()
        assert one.masks.mean_kept is None
        assert one.masks.allowed


def test_values_of_json_modules_of_python_and_the_answer_after_a_marker(engine: Engine) -> None:
    warm = Sampling(temperature=3.0, max_new_tokens=60)
    [one] = complete_within(engine, ["x"], {"json_schema": SCHEMA}, warm)
    assert one.meaning is not None
    assert one.meaning.value == json.loads(one.text)
    assert one.meaning.tree is not None
    [two] = complete_within(engine, ["x"], {"json": "array"}, warm)
    assert two.meaning is not None
    assert isinstance(two.meaning.value, list)
    [three] = complete_within(engine, ["x"], {"python": {"prefix": "def f():\n"}}, warm)
    assert three.meaning is not None
    assert isinstance(three.meaning.module, ast.Module)
    assert isinstance(three.meaning.module.body[0], ast.FunctionDef)
    then = {"after": {"marker": "=>", "then": {"choice": ["yes", "no"]}}}
    [four] = complete_within(engine, ["x"], then, warm)
    assert four.meaning is not None
    assert four.meaning.tree is not None
    assert four.text[four.meaning.tree.start : four.meaning.tree.stop] == four.parts.answer in ("yes", "no")
    assert len(four.masks.allowed) == len(four.completion.token_ids)


class Cut:
    """An engine whose texts all end after their first token."""

    def __init__(self, engine: Engine) -> None:
        self.intake = engine.intake

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        [letter] = self.intake.compiler.compile({"choice": ["a"]}, "x").start().allowed(1).nonzero()[:, 0].tolist()
        return [Completion(r.id, "a", "a", (letter,), "length", 1, (-0.5,), (-1.0,), complete=False) for r in requests]


def test_a_text_that_was_cut_off_has_no_meaning_and_others_do_not_pass(engine: Engine) -> None:
    [one] = complete_within(Cut(engine), ["x"], {"choice": ["abc"]}, PLAIN)
    assert one.meaning is None
    assert (one.masks.num_forced, one.masks.mean_allowed) == (1, 1 / WIDTH)
    assert one.masks.kept == (math.exp(-0.5),)
    with pytest.raises(DataError, match="does not fit"):
        meaning_of("abd", {"choice": ["abc"]}, engine.intake.compiler)
