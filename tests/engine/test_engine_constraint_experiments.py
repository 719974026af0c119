"""The experiments on constraints, at their smallest: what they count is what happened."""

from __future__ import annotations

import json
import re
from typing import Any

import pytest
from experiments import grammar_engines, real_constraints
from experiments._stated_facts import KINDS, Stated, stated_facts
from tests.engine.engine_constraint_walks import byte_level
from tests.engine.engine_models import llama

from rung.engine.constraints.vocabulary import read_vocabulary
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.records.contracts import Request
from rung.records.json_valid import validate_json
from rung.records.scripted import Scripted

# -- stated facts


def test_every_fact_stands_in_its_sentence_and_fits_its_schema() -> None:
    found = stated_facts(200, 7)
    assert found == stated_facts(200, 7)
    assert len({one.family for one in found}) == sum(len(kind.patterns) for kind in KINDS)
    for one in found:
        assert validate_json(dict(one.facts), one.kind.schema()) == []
        for value in one.facts.values():
            said = {True: "yes", False: "no"}[value] if isinstance(value, bool) else str(value)
            assert re.search(rf"\b{said}\b", one.sentence), (said, one.sentence)
    assert len({one.sentence for one in found}) > 190


# -- real_constraints


def scripted(change: Any) -> Scripted:
    """Answers with the facts as `change` leaves them."""
    of_prompt = {real_constraints.prompt(one, arm): one for one in FACTS for arm in real_constraints.ARMS}

    def answer(request: Request) -> str:
        """The facts of whoever is asked about."""
        one = of_prompt[request.text]
        start = f"notes {real_constraints.MARKER} " if request.id.startswith("after") else " "
        return start + change(one, request.id.split("-")[0])

    return Scripted(answer)


FACTS = stated_facts(20, 3)


def told(change: Any) -> dict[str, Any]:
    return real_constraints.summary(*real_constraints.measure(scripted(change), FACTS, block=5), "scripted")


def test_right_answers_are_right_in_every_arm() -> None:
    result = told(lambda one, arm: json.dumps(dict(one.facts)))
    for found in result["arms"].values():
        assert all(found[key]["value"] == 1.0 for key in ("valid", "fields", "mended_valid", "mended_fields"))
    assert result["differences"]["schema"]["fields"]["value"] == 0.0


def test_wrong_fields_and_broken_texts_are_counted_as_such() -> None:
    def spoilt(one: Stated, arm: str) -> str:
        """One field wrong, and a comma too many where nothing is enforced."""
        facts = dict(one.facts)
        facts[next(iter(facts))] = "nobody"
        text = json.dumps(facts)
        return text.replace("}", ",}") if arm == "free" else text

    result = told(spoilt)
    free, schema = result["arms"]["free"], result["arms"]["schema"]
    assert (free["valid"]["value"], free["fields"]["value"]) == (0.0, 0.0)
    assert free["mended_fields"]["value"] == schema["fields"]["value"] == 0.75
    difference = result["differences"]["schema"]
    assert difference["fields"]["value"] == 0.75
    assert difference["mended_fields"]["value"] == 0.0
    assert difference["mcnemar_p"] < 0.001
    page = real_constraints.page(result)
    assert "| free | 0.000 [0.000, " in page
    assert "+0.750" in page


def test_a_random_model_is_valid_under_constraint_alone() -> None:
    engine = Engine(llama(), EngineSettings(num_slots=8))
    answers, speeds = real_constraints.measure(engine, FACTS[:4], limit=140, block=2)
    shares = {arm: sum(one.valid for one in answers if one.arm == arm) for arm in real_constraints.ARMS}
    assert shares == {"free": 0, "schema": 4, "after": 4}
    assert len(speeds) == 2
    assert all(value > 0 for block in speeds for value in block.values())


# -- grammar_engines


def test_masks_of_three_libraries_are_compared_and_closing_is_counted() -> None:
    tokenizer = byte_level()
    vocabulary = read_vocabulary(tokenizer, tokenizer.vocabulary_size)
    texts = {"words": 'root ::= "ab" [a-c]+ "."', "pairs": 'root ::= "(" root ")" | "x"'}
    found = grammar_engines.figures(vocabulary, texts, 1, 6)
    for row in found["grammars"].values():
        assert row["rung"]["same"] == row["rung"]["masks"] == len(row["rung"]["mask_ms"])
        assert row["rung"]["whole_at_limit"] == 6
        assert row["xgrammar"]["same"] == row["xgrammar"]["masks"] > 6
    assert found["grammars"]["words"]["xgrammar"]["whole_at_limit"] < 6
    page = grammar_engines.page(found)
    assert page.count("\n| words |") == 1


@pytest.mark.parametrize("name", sorted(grammar_engines.grammars()))
def test_a_dozen_grammars_are_known_to_all(name: str) -> None:
    assert len(grammar_engines.grammars()) == 12
    assert grammar_engines.grammars()[name].startswith("root ::=")
