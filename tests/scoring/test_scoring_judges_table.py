"""The critic table, played by a script: every variant is measured, and the page says what the rule decides."""

from __future__ import annotations

import pytest
from experiments.critic_table import VARIANTS, Remembering, measure, page

from rung.base.lookup import part
from rung.records.chat.frame import Frame
from rung.records.scripted import Scripted
from rung.scoring.known_pairs import known_pairs

PAIRS = known_pairs()[::3]


def informed(prompt: str, continuation: str) -> float:
    """Loves the letter A whatever it means; finds the right answer likely after its instruction."""
    if continuation.strip() in ("A", "B"):
        return 2.0 * (continuation.strip() == "A")
    if continuation == "\n":
        return -0.5
    right = {Frame.prompt(pair.instruction): " " + pair.response for pair in PAIRS}
    return -1.0 if right.get(prompt) == continuation else -6.0


def test_every_variant_is_measured_and_the_page_shows_the_refusal_and_the_fallback() -> None:
    reports = measure(Scripted([], informed), PAIRS, quick=True)
    assert list(reports) == [variant.name for variant in VARIANTS]
    assert reports["choice"].overall.value == 0.5
    assert not reports["choice"].verdict.may_gate
    assert reports["information gain (default: all of these)"].verdict.may_gate
    text = page({"scripted": reports})
    assert "`critic: choice` alone: refused." in text
    assert "fallback: information_gain`: information_gain gates at" in text
    assert f"{len(PAIRS)} of {len(PAIRS)} verdicts on good items flip" in text
    assert text.count("| information gain") == 8


@pytest.mark.parametrize("variant", VARIANTS, ids=lambda v: v.name)
def test_every_variant_is_a_valid_part(variant: object) -> None:
    settings = {"kind": variant.critic, **variant.settings}  # type: ignore[attr-defined]
    found, validated = part("scoring.judges", settings)
    assert isinstance(validated, found.Settings)


def test_a_text_is_scored_once() -> None:
    model = Scripted([], informed)
    remembering = Remembering(model)
    first = remembering.score(["a", "a", "b"], [" x", " x", " y"])
    assert remembering.score(["b", "a"], [" y", " x"]) == [first[2], first[0]]
    assert len(model.scored) == 2
