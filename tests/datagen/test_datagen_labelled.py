"""Labelled sets: made on the spot with labels that are right by construction, and read from published layouts."""

from __future__ import annotations

import gzip
import json
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from rung.base.errors import DataError
from rung.base.lookup import known, lookup, part
from rung.datagen.labelled.arithmetic_steps import ArithmeticSteps
from rung.datagen.labelled.graded_answers import GradedAnswers
from rung.datagen.labelled_set import LabelledSet, solution, solution_pairs
from rung.scoring.equations import equations_in


def chains(**settings: Any) -> LabelledSet:
    return ArithmeticSteps(ArithmeticSteps.Settings(**{"count": 40, **settings})).make()


def outcome(question: str) -> int:
    """What the question's chain comes to, worked out from its words."""
    first, *parts = question.removeprefix("Start with ").removesuffix(". What comes out?").split(", ")
    value = int(first)
    for words in parts:
        number = int(words.split()[-1])
        value = value + number if words.startswith("add") else value * number if "multiply" in words else value - number
    return value


def stated(text: str) -> int:
    return int(text.rpartition("The answer is ")[2].rstrip("."))


def test_every_label_of_a_chain_is_right() -> None:
    found = chains().solutions
    assert Counter(one.kind for one in found) == dict.fromkeys(ArithmeticSteps.Settings().kinds, 40)
    for one in found:
        steps = [equations_in(line)[0].holds for line in one.lines[:-1]]
        assert one.soundness == tuple(map(float, steps)), one.text
        right = stated(one.text) == outcome(one.instruction)
        assert right == (one.kind in ("sound", "step", "corrected", "shuffled")), one.text
        assert one.coherence == float(one.kind in ("sound", "step", "corrected"))
        assert (0.0 in one.soundness) == (one.kind in ("step", "corrected", "carried"))


def test_chains_are_the_same_each_time_and_rank_the_right_way() -> None:
    assert chains() == chains()
    assert chains(seed=1) != chains()
    types = Counter(pair.type for pair in chains().pairs)
    assert types["sound-step"] == types["step-end"] == types["corrected-carried"] == 40
    assert not any(name.startswith("end-") for name in types)
    with pytest.raises(DataError, match="only"):
        chains(count=5000, num_steps=2, largest=3)


def test_equal_ranks_make_no_pair() -> None:
    same = [solution("q", [f"{n}", "end"], [1.0], 1.0, rank=1) for n in range(3)]
    assert solution_pairs(same) == ()
    with pytest.raises(DataError, match="2 lines have 1 steps"):
        solution("q", ["a", "b"], [1.0, 1.0], None)


def test_graded_answers_say_what_their_labels_say_and_labels_are_missing() -> None:
    found = GradedAnswers(GradedAnswers.Settings(count=200, missing=0.2)).make()
    correct = [one for one in found.answers if one.labels["correctness"].value == 4.0]
    for one in correct:
        left, right = (int(n) for n in one.instruction.removeprefix("What is ").rstrip("?").split(" + "))
        assert one.response.endswith(f"The answer is {left + right}.")
    for one in found.answers:
        verbosity = one.labels["verbosity"].value
        assert verbosity is None or one.response.count(". ") == verbosity
        assert any(label.value is not None for label in one.labels.values())
    gone = sum(one.labels["correctness"].value is None for one in found.answers) / len(found.answers)
    assert 0.15 < gone < 0.25
    assert found.pairs
    assert all("margin" in pair.metadata for pair in found.pairs)


LINES: dict[str, list[dict[str, Any]]] = {
    "helpsteer2": [{"prompt": "Hi?", "response": "Hello.", "helpfulness": 3, "correctness": 4, "coherence": 4,
                    "complexity": 1, "verbosity": None}],
    "helpsteer2_preference": [
        {"prompt": "Hi?", "response_1": "Hello.", "response_2": "No.", "preference_strength": -2},
        {"prompt": "Bye?", "response_1": "Bye.", "response_2": "Yes.", "preference_strength": 0},
    ],
    "code_ultra_feedback": [{"instruction": "Sort.", "preference": "readability",
                             "responses": [{"model": "a", "response": "x"}, {"model": "b", "response": "y"}],
                             "annotations": [{"model": "a", "rating": "5"}, {"model": "b", "rating": "N/A"}]}],
    "hh_rlhf": [
        {"chosen": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: So.",
         "rejected": "\n\nHuman: Hi\n\nAssistant: Hello\n\nHuman: Why?\n\nAssistant: No."},
        {"chosen": "\n\nHuman: Hi\n\nAssistant: A", "rejected": "\n\nHuman: Ho\n\nAssistant: B"},
    ],
    "steps": [{"prompt": "2 + 2 + 1?", "completions": ["2 + 2 = 4", "4 + 1 = 6", "6"], "labels": [True, False, None]},
              {"prompt": "2?", "completions": ["2"], "labels": [None]}],
}  # fmt: skip


@pytest.mark.parametrize("name", sorted(LINES))
def test_published_layouts_are_read_from_a_file(name: str, tmp_path: Path) -> None:
    text = "".join(json.dumps(line) + "\n" for line in LINES[name])
    (tmp_path / "x.jsonl").write_text(text)
    (tmp_path / "x.jsonl.gz").write_bytes(gzip.compress(text.encode()))
    made = []
    for file in ("x.jsonl", "x.jsonl.gz"):
        kind, own = part("datagen.labelled", {"kind": name, "file": str(tmp_path / file)})
        made.append(kind(own).make())
    assert made[0] == made[1]
    assert len(made[0].pairs) + len(made[0].answers) + len(made[0].solutions) == 1
    (tmp_path / "bad.jsonl").write_text(text + "[1]\n")
    kind, own = part("datagen.labelled", {"kind": name, "file": str(tmp_path / "bad.jsonl")})
    with pytest.raises(DataError, match="not an object") as caught:
        kind(own).make()
    assert caught.value.place == f"bad.jsonl:{len(LINES[name]) + 1}"


def test_what_the_layouts_say(tmp_path: Path) -> None:
    def made(name: str, **more: Any) -> LabelledSet:
        path = tmp_path / f"{name}.jsonl"
        path.write_text("".join(json.dumps(line) + "\n" for line in LINES[name]))
        kind, own = part("datagen.labelled", {"kind": name, "file": str(path), **more})
        return kind(own).make()

    steps = made("steps").solutions[0]
    assert (steps.soundness, steps.coherence) == ((1.0, 0.0), None)
    pair = made("hh_rlhf").pairs[0]
    assert (pair.chosen, pair.rejected) == ("So.", "No.")
    assert pair.instruction.startswith("Human: Hi")
    assert made("hh_rlhf", last_turn=True).pairs[0].instruction == "Why?"
    preferred = made("helpsteer2_preference").pairs[0]
    assert (preferred.chosen, preferred.metadata["margin"]) == ("Hello.", 2.0)
    assert made("helpsteer2").answers[0].labels["verbosity"].value is None


@pytest.mark.parametrize("name", known("datagen.labelled"))
def test_shape_of_a_source(name: str) -> None:
    kind = lookup("datagen.labelled", name)
    assert all(field.description for field in kind.Settings.model_fields.values())
    assert callable(kind.make)
