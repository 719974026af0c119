"""The contest of proof and tests: the tests miss what they are said to miss, the proof misses nothing."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from experiments._tiny_code import program
from experiments._tiny_contracts import BODIES, RIGHT, TinyContracts
from experiments.z3_training import proved

from rung.records.contracts import Trace
from rung.scoring.checks import Checks


def judged(judge: str) -> dict[str, float | None]:
    """What each body earns."""
    item = TinyContracts(TinyContracts.Settings(judge=judge)).make(1, 4, "train")[0]
    traces = [Trace(item.id, program(body)) for body in BODIES.values()]
    scores = Checks().score([item] * len(traces), traces)
    return {name: score.value for name, score in zip(BODIES, scores, strict=True)}


def test_two_wrong_bodies_pass_the_tests_and_only_the_right_one_is_proved() -> None:
    assert judged("proof") == {"right": 1.0, "first": 0.0, "size": 0.0, "least": 0.0}
    assert judged("tests") == {"right": 1.0, "first": 1.0, "size": 1.0, "least": 0.0}


@pytest.mark.parametrize(("right", "wrong"), [(3, 1), (0, 4)])
def test_held_out_answers_are_counted_by_proof(right: int, wrong: int) -> None:
    answer: Any = SimpleNamespace(text=program(RIGHT))
    answers = [answer] * right + [SimpleNamespace(text=program("a"))] * (wrong - 1) + [SimpleNamespace(text="def f(")]
    found = proved(answers)
    assert found["share"] == right / 4
    assert found["outcomes"].get("proved", 0) == right
    assert sum(found["outcomes"].values()) == 4
    assert found["low"] <= found["share"] <= found["high"]
