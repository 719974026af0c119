"""What a model of random logits writes under each constraint: valid, flagged incomplete, or neither (a defect).

Writes constraints_random.json and constraints_random.md. The model is untrained and sampled at temperature 5; limits go
from 5 to 200 tokens. Checkers are independent of the engine.
"""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import jsonschema
import xgrammar
from xgrammar.testing import _is_grammar_accept_string

from rung.base.errors import SettingsError
from rung.base.files import write_json, write_text
from rung.base.lookup import known
from rung.engine.constraints.compiling import FOLDER
from rung.engine.engine import Engine
from rung.models.load import load
from rung.records.contracts import Request, Sampling

__all__ = ["CASES", "Case", "Row", "measure", "run"]

LIMITS = (5, 10, 20, 40, 80, 120, 200)
_NUM_OUTPUTS, _NUM_QUICK = 1000, 7
_LEAF = {"type": "object", "properties": {"v": {"type": ["integer", "null"]}}, "required": ["v"]}
_TREE = {
    "type": "object",
    "properties": {"leaf": {"type": "boolean"}, "kids": {"type": "array", "items": {"$ref": "#/$defs/tree"}}},
    "required": ["leaf"],
    "additionalProperties": False,
}
_SCHEMAS: dict[str, Any] = {
    "answer": {
        "type": "object",
        "properties": {"reasoning": {"type": "string"}, "answer": _LEAF},
        "required": ["reasoning", "answer"],
    },
    "tree": {"$ref": "#/$defs/tree", "$defs": {"tree": _TREE}},
    "bounds": {
        "type": "object",
        "properties": {
            "age": {"type": "integer", "minimum": -17, "maximum": 1234},
            "code": {"type": "string", "minLength": 2, "maxLength": 5},
        },
        "required": ["age"],
    },
    "union": {"type": "array", "items": {"anyOf": [{"enum": ["ä", 3, None]}, _LEAF, {"type": "boolean"}]}},
    "matrix": {"type": "array", "items": {"type": "array", "items": {"type": "number"}, "minItems": 1, "maxItems": 3}},
}
_GRAMMARS = {
    "arithmetic": 'root ::= sum\nsum ::= sum [-+] atom | atom\natom ::= [0-9]{1,4} | "(" sum ")"',
    "list": 'root ::= item+\nitem ::= "- " [^\\r\\n]+ "\\n"',
    "chess": 'root ::= move (" " move)*\nmove ::= [NBRQK]? [a-h] [1-8] [+#]? | "O-O" "-O"?',
    "declarations": 'root ::= line*\nline ::= ("int" | "char") " " name ("=" name)? ";"\nname ::= [a-z_] [a-z_0-9]*',
    "array": 'root ::= "[" (value ("," value)*)? "]"\nvalue ::= root | [0-9]+ | "\\"" [^"\\\\\\x00-\\x1f]* "\\""',
}


@dataclass(frozen=True, slots=True)
class Case:
    """A constraint and an independent check of its texts; the check raises or says no."""

    name: str
    spec: dict[str, Any]
    check: Callable[[str], Any]


@dataclass(frozen=True, slots=True)
class Row:
    """Counts of a case at a limit; `refused` says that the limit was too small from the start."""

    name: str
    limit: int
    outputs: int
    valid: int
    flagged: int
    refused: bool


def _accepts_schema(schema: Any) -> Callable[[str], bool]:
    return lambda text: jsonschema.validate(json.loads(text), schema) is None


def _accepts_grammar(text: str) -> Callable[[str], bool]:
    grammar = xgrammar.Grammar.from_ebnf(text)
    return lambda answer: bool(_is_grammar_accept_string(grammar, answer))


def _cases() -> Iterator[Case]:
    yield Case("json", {"json": True}, lambda text: json.loads(text) is not Ellipsis)
    for name, schema in _SCHEMAS.items():
        yield Case(f"schema: {name}", {"json_schema": schema}, _accepts_schema(schema))
    for name, grammar in _GRAMMARS.items():
        yield Case(f"gbnf: {name}", {"gbnf": grammar}, _accepts_grammar(grammar))
    pattern = "[0-9]{4}-(0[1-9]|1[0-2])|never"
    yield Case("regex", {"regex": pattern}, lambda text: re.fullmatch(pattern, text))
    yield Case("choice", {"choice": ["yes", "no"]}, lambda text: text in ("yes", "no"))
    if "python" in known(FOLDER):
        yield Case("python", {"python": {}}, lambda text: ast.parse(text))


CASES = tuple(_cases())


def measure(engine: Engine, case: Case, limit: int, count: int) -> Row:
    """`count` texts of one case at one limit."""
    sampling = Sampling(temperature=5.0, max_new_tokens=limit)
    asked = [Request(str(n), sampling, seed=n, text=f"write {n}", constraint=case.spec) for n in range(count)]
    try:
        done = engine.complete(asked)
    except SettingsError:
        return Row(case.name, limit, 0, 0, 0, True)
    valid = sum(bool(one.complete) and _holds(case, one.text) for one in done)
    return Row(case.name, limit, count, valid, sum(one.complete is False for one in done), False)


def _holds(case: Case, text: str) -> bool:
    try:
        return bool(case.check(text))
    except (ValueError, SyntaxError, jsonschema.ValidationError):
        return False


def run(results: Path, quick: bool = False) -> None:
    """Measure all cases at all limits and write the table."""
    engine = Engine(load("tiny:llama", precision="float32", strict=False))
    each = (_NUM_QUICK if quick else _NUM_OUTPUTS) // len(LIMITS) + 1
    rows = [measure(engine, case, limit, each) for case in CASES for limit in LIMITS]
    write_json(results / "constraints_random.json", [asdict(row) for row in rows])
    write_text(results / "constraints_random.md", "\n".join(_page(rows)) + "\n")


def _page(rows: list[Row]) -> Iterator[str]:
    yield "# Texts of a random model under constraints\n"
    yield "| constraint | outputs | valid | flagged incomplete | neither | limits refused as too small |"
    yield "|---|---|---|---|---|---|"
    for name in dict.fromkeys(row.name for row in rows):
        own = [row for row in rows if row.name == name]
        outputs, valid, flagged = (sum(getattr(r, key) for r in own) for key in ("outputs", "valid", "flagged"))
        refused = ", ".join(str(row.limit) for row in own if row.refused) or "none"
        yield f"| {name} | {outputs} | {valid} | {flagged} | {outputs - valid - flagged} | {refused} |"
