"""JSON tools: what is written reads back, what is broken is mended or refused with its place, schemas are asked."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import jsonschema
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.base.errors import DataError, SettingsError
from rung.records.json_repair import Repair, repair_json
from rung.records.json_text import format_json, read_json
from rung.records.json_valid import validate_json

LEAVES = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
VALUES = st.recursive(LEAVES, lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4))


# -- format and read


@given(VALUES, st.sampled_from([None, 0, 2]))
def test_what_is_written_reads_back_and_is_written_the_same_again(value: Any, indent: int | None) -> None:
    text = format_json(value, indent)
    assert read_json(text) == value
    assert repr(read_json(text)) == repr(value), "types stay, and the order of keys"
    assert format_json(read_json(text), indent) == text
    assert repair_json(text).repairs == ()
    text.encode()


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("NaN", "NaN is no JSON number"),
        ("[-Infinity]", "-Infinity is no JSON number"),
        ("1e999", "too large"),
        ('{"a": 1, "b": 2, "a": 3}', "the key 'a' comes twice"),
        ("[" * 100_000, "no JSON"),
        ("9" * 5000, "no JSON"),
    ],
    ids=["nan", "infinity", "large", "twice", "deep", "long"],
)
def test_what_others_would_not_read_is_refused(text: str, wanted: str) -> None:
    with pytest.raises(DataError, match=wanted):
        read_json(text)


def test_faults_of_syntax_have_their_place() -> None:
    with pytest.raises(DataError) as caught:
        read_json('{"a": 1,\n "b" 2}')
    assert caught.value.place == "line 2, column 6"


def test_values_without_a_form_are_refused_and_half_a_pair_is_escaped() -> None:
    for value in (float("nan"), {1, 2}, object()):
        with pytest.raises(DataError, match="JSON cannot hold this"):
            format_json(value)
    assert format_json(["é", "\ud83d"]) == '["\\u00e9", "\\ud83d"]'
    assert format_json("é") == '"é"'


# -- repair or refuse


def broken(value: Any, draw: Any) -> str:
    """A text with slips of all kinds that leaves one reading."""
    space = draw(st.sampled_from(["", " ", "\n", " // note ]}\n", "/* , */"]))
    if isinstance(value, dict):
        inside = ("," + space).join(f"{broken(k, draw)}{space}:{broken(v, draw)}" for k, v in value.items())
        return "{" + space + inside + ("," if value and draw(st.booleans()) else "") + space + "}"
    if isinstance(value, list):
        inside = ("," + space).join(broken(item, draw) for item in value)
        return "[" + space + inside + ("," if value and draw(st.booleans()) else "") + space + "]"
    if isinstance(value, str):
        text = format_json(value)
        return "'" + text[1:-1].replace('\\"', '"').replace("'", "\\'") + "'" if draw(st.booleans()) else text
    if (value is None or isinstance(value, bool)) and draw(st.booleans()):
        return repr(value)
    return format_json(value)


@settings(max_examples=200)
@given(VALUES, st.data())
def test_slips_are_mended_to_the_very_value(value: Any, data: Any) -> None:
    text = broken(value, data.draw)
    found = repair_json(text)
    assert repr(found.value) == repr(value)
    try:
        assert json.loads(text) == value
    except json.JSONDecodeError:
        assert found.repairs
    again = repair_json(format_json(found.value))
    assert (repr(again.value), again.repairs) == (repr(value), ())


@settings(max_examples=200)
@given(st.dictionaries(st.text(), VALUES, min_size=1, max_size=4), st.data())
def test_a_text_cut_anywhere_is_closed_or_refused_and_nothing_is_made_up(value: Any, data: Any) -> None:
    text = format_json(value)
    cut = text[: data.draw(st.integers(0, len(text) - 1))]
    with contextlib.suppress(DataError):
        assert part_of(repair_json(cut).value, value)


def part_of(some: Any, whole: Any) -> bool:
    """Whether every leaf of one value stands at its place in another."""
    if isinstance(some, dict):
        return list(some) == list(whole)[: len(some)] and all(part_of(some[key], whole[key]) for key in some)
    if isinstance(some, list):
        return len(some) <= len(whole) and all(map(part_of, some, whole))
    return repr(some) == repr(whole)


@pytest.mark.parametrize(
    ("text", "value", "repairs"),
    [
        ('[1, 2, ]', [1, 2], ["a comma before a closing bracket taken out"]),
        ("{'a': 'it\\'s \"x\"'}", {"a": "it's \"x\""}, ["single quotes made double"] * 2),
        ('{"a": [true, {"b": null', {"a": [True, {"b": None}]}, ["'}' added at the end", "']' added at the end"]),
        ('Sure:\n```json\n{"a": 1}\n```\nThat is it.', {"a": 1}, ["a code fence taken off"]),
        ('```\n[1]\n', [1], ["a code fence taken off"]),
        ('[1, // one\n 2 /* two */]', [1, 2], ["a comment taken out"] * 2),
        ('["a\nb"]', ["a\nb"], ["a control character in a string escaped"]),
        ("[True, None]", [True, None], ["True written as JSON", "None written as JSON"]),
        ('[1 ', [1], ["']' added at the end"]),
        ('{"a": "``` // , ]", }', {"a": "``` // , ]"}, ["a comma before a closing bracket taken out"]),
    ],
)  # fmt: skip
def test_repairs_are_named(text: str, value: Any, repairs: list[str]) -> None:
    found = repair_json(text)
    assert found.value == value
    assert [one.what for one in found.repairs][: len(repairs)] == repairs


def test_repairs_have_their_place() -> None:
    assert repair_json("[1,\n 'a']").repairs == (Repair("single quotes made double", "line 2, column 2"),)


@pytest.mark.parametrize(
    ("text", "message", "place"),
    [
        ('{"a": "hello', "the string has no end", "line 1, column 7"),
        ('{"a": 12', "ends with a number", "line 1, column 7"),
        ('{"a":', "a value is missing", "line 1, column 6"),
        ('{"a"', "has no value", "line 1, column 5"),
        ('{"a": tru', "'tru' is no value", "line 1, column 7"),
        ("[1,,2]", "a value is missing", "line 1, column 4"),
        ("[,]", "a value is missing", "line 1, column 2"),
        ("[1 2]", "',' or ']' is missing", "line 1, column 4"),
        ("[1, 2}", "',' or ']' is missing", "line 1, column 6"),
        ("{a: 1}", "a key in quotes is missing", "line 1, column 2"),
        ("{'a': 'don't'}", "',' or '}' is missing", "line 1, column 12"),
        ('{"a": 1, "a": 2,}', "comes twice", "line 1, column 10"),
        ("[NaN,]", "'NaN' is no value", "line 1, column 2"),
        ("[1e999,]", "too large", "line 1, column 2"),
        ("['\\ud800']", "the string is wrong", "line 1, column 2"),
        ("['\\x']", "the string is wrong", "line 1, column 2"),
        ("[1,] and more", "something follows", "line 1, column 6"),
        ("The answer is [1]", "'The' is no value", "line 1, column 1"),
        ("", "a value is missing", "line 1, column 1"),
        ("```\n[1,]\n```\nor\n```\n[2]\n```", "a second code fence", "line 5, column 1"),
        ("[" * 300, "more than 200 brackets", "line 1, column 201"),
    ],
    ids=range(21),
)
def test_what_would_be_a_guess_is_refused_with_its_place(text: str, message: str, place: str) -> None:
    with pytest.raises(DataError) as caught:
        repair_json(text)
    assert message in caught.value.message
    assert caught.value.place == place


# -- schemas

TREE = {
    "type": "object",
    "properties": {"leaf": {"type": "boolean"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    "required": ["leaf"],
    "additionalProperties": False,
}
SCHEMAS: list[Any] = [
    True,
    {"type": ["integer", "null"], "title": "x"},
    {"type": "array", "items": {"type": "number", "minimum": 0}, "minItems": 1, "maxItems": 2, "uniqueItems": True},
    {"type": "string", "minLength": 1, "maxLength": 3},
    {"enum": [1, True, "a", None, [0], {"a": 1}]},
    {"const": 0},
    {"anyOf": [{"type": "integer", "exclusiveMinimum": 0}, {"type": "number", "exclusiveMaximum": -1, "maximum": 9}]},
    {"type": "object", "properties": {"": {"type": "string"}, "a": False}, "additionalProperties": {"type": "boolean"}},
    {"$ref": "#/$defs/tree", "$defs": {"tree": TREE}},
    {"required": ["a"], "properties": {"a": {"type": "array", "items": {"const": 1}}}},
]
TREES = st.recursive(
    st.fixed_dictionaries({"leaf": st.booleans() | st.none()}, optional={"more": st.none()}),
    lambda inner: st.fixed_dictionaries({"leaf": st.booleans(), "kids": st.lists(inner, max_size=3)}),
)
SMALL = st.sampled_from([0, 1, 1.0, -2.5, True, False, None, "", "a", "abcd", [0], [0, 0.0], [1, 2], {"a": 1}])


def escaped(step: str | int) -> str:
    """A step of a JSON pointer."""
    return str(step).replace("~", "~0").replace("/", "~1")


@settings(max_examples=300)
@given(VALUES | SMALL | TREES | st.dictionaries(st.sampled_from(["", "a", "b"]), SMALL), st.sampled_from(SCHEMAS))
def test_verdicts_are_those_of_the_reference_library(value: Any, schema: Any) -> None:
    reference = list(jsonschema.Draft202012Validator(schema).iter_errors(value))
    found = validate_json(value, schema)
    assert bool(found) == bool(reference), (found, reference)
    theirs = {"".join(f"/{escaped(step)}" for step in error.absolute_path) for error in reference}
    # theirs names the object that holds a property too many, ours the property
    own = [one.path.rpartition("/")[0] if one.message == "nothing may stand here" else one.path for one in found]
    assert {*own} <= theirs


def test_faults_have_paths_into_value_and_schema() -> None:
    schema = {
        "type": "object",
        "properties": {"a/b": {"type": "array", "items": {"type": "integer", "maximum": 9}}, "c": {"enum": ["x"]}},
        "required": ["c", "d"],
        "additionalProperties": False,
    }
    faults = validate_json({"a/b": [1, "2", 30], "c": "y", "e": 1}, schema)
    assert [(one.path, one.rule) for one in faults] == [
        ("/a~1b/1", "#/properties/a~1b/items/type"),
        ("/a~1b/2", "#/properties/a~1b/items/maximum"),
        ("/c", "#/properties/c/enum"),
        ("", "#/required"),
        ("/e", "#/additionalProperties"),
    ]
    assert faults[0].message == "'2' is not of type integer"
    assert faults[3].message == "'d' is missing"


@pytest.mark.parametrize(
    ("schema", "place"),
    [
        ({"pattern": "x"}, "#/pattern"),
        ({"properties": {"a": {"format": "date"}}}, "#/properties/a/format"),
        ({"properties": {"a": {"type": "text"}}}, "#/properties/a/type"),
        ({"$ref": "#/$defs/x"}, "#/$ref"),
        ({"$ref": "#"}, "#/$ref"),
        ({"items": 3}, "#/items"),
    ],
    ids=str,
)
def test_keywords_that_are_not_known_are_refused_and_not_skipped(schema: Any, place: str) -> None:
    with pytest.raises(SettingsError) as caught:
        validate_json("found before any value is looked at" if "$ref" not in schema else 1, schema)
    assert caught.value.place == place
