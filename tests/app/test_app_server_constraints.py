"""What an answer must obey, through the server: OpenAI's response formats and rung's own rules, cut-offs included."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from typing import Any

import pytest
from tests.app.test_app_server import Up, refused, serving

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string", "maxLength": 8}, "age": {"type": "integer", "minimum": 0, "maximum": 99}},
    "required": ["name", "age"],
}
BY_SCHEMA = {"type": "json_schema", "json_schema": {"name": "person", "schema": SCHEMA, "strict": True}}


@pytest.fixture(scope="module")
def up() -> Iterator[Up]:
    with serving({"body_bytes": 20_000}) as server:
        yield server


@pytest.mark.parametrize("limit", [60, 64, 120])
def test_the_official_client_gets_json_by_a_schema_however_short(up: Up, limit: int) -> None:
    reply = up.openai.chat.completions.create(
        model="tiny",
        messages=[{"role": "user", "content": "Who?"}],
        response_format=BY_SCHEMA,  # type: ignore[arg-type]
        max_tokens=limit,
        n=4,
        seed=3,
    )
    for choice in reply.choices:
        found = json.loads(choice.message.content or "")
        assert set(found) == {"name", "age"}
        assert 0 <= found["age"] <= 99


def test_an_object_is_an_object_in_whole_and_streamed(up: Up) -> None:
    asked: dict[str, Any] = {
        "prompt": ["a", "b", "c"], "seed": 1, "max_tokens": 30, "response_format": {"type": "json_object"}
    }  # fmt: skip
    texts = [choice["text"] for choice in up.post("/v1/completions", **asked).json()["choices"]]
    assert all(isinstance(json.loads(text), dict) for text in texts)
    pieces = ["", "", ""]
    for chunk in up.openai.completions.create(
        model="tiny", prompt=asked["prompt"], seed=1, max_tokens=30, stream=True,
        extra_body={"response_format": asked["response_format"]},
    ):  # fmt: skip
        for choice in chunk.choices:
            pieces[choice.index] += choice.text
    assert pieces == texts


@pytest.mark.parametrize(
    ("rule", "obeys"),
    [
        ({"choice": ["yes", "no"]}, lambda text: text in ("yes", "no")),
        ({"regex": "[0-9]{2,4}x"}, lambda text: re.fullmatch("[0-9]{2,4}x", text)),
        ({"gbnf": 'root ::= "a" ("," root)?'}, lambda text: re.fullmatch("a(,a)*", text)),
        ({"python": {}}, lambda text: compile(text, "answer", "exec", flags=1024) is not None),  # PyCF_ONLY_AST
    ],
)
def test_rules_of_our_own(up: Up, rule: dict[str, Any], obeys: Any) -> None:
    reply = up.post("/v1/completions", prompt="x", n=6, seed=2, max_tokens=24, constraint=rule).json()
    assert len(reply["choices"]) == 6
    assert all(obeys(choice["text"]) for choice in reply["choices"])


@pytest.mark.parametrize(
    ("body", "code", "words"),
    [
        ({"constraint": {"regexp": "a"}}, "settings", "regex"),
        ({"constraint": {"regex": "("}}, "settings", "column"),
        ({"constraint": {"choice": ["a"]}, "stop": "x"}, "settings", "stop"),
        ({"constraint": {"choice": ["a"]}, "response_format": {"type": "text"}}, "invalid_value", "both"),
        ({"response_format": {"type": "json_schema"}}, "invalid_value", "json_schema"),
        ({"response_format": {"type": "xml"}}, "invalid_value", "response_format"),
        ({"response_format": BY_SCHEMA, "max_tokens": 5}, "settings", "max_new_tokens"),
        (
            {"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "array", "contains": 1}}}},
            "settings",
            "contains",
        ),
    ],
)
def test_what_cannot_be_obeyed_is_refused_before_work(up: Up, body: Any, code: str, words: str) -> None:
    status, found, message = refused(up.post("/v1/completions", **{"prompt": "x", "max_tokens": 80, **body}))
    assert (status, found) == (400, code)
    assert words in message
