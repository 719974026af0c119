"""What single rewards are for: equations worked out, ends over steps, shapes that hold."""

from __future__ import annotations

from fractions import Fraction

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rung.base.errors import DataError, SettingsError
from rung.base.settings import validate
from rung.records.contracts import Item, Score, Trace
from rung.records.scripted import Scripted
from rung.scoring.equations import equations_in
from rung.scoring.reward import Lent
from rung.scoring.rewards.judge import Judge
from rung.scoring.rewards.length import Length
from rung.scoring.rewards.repetition import Repetition
from rung.scoring.rewards.steps import Steps

NUTS = Item("nuts", Steps.INSTRUCTION, reference={"checks": {"number": {"value": 14}}})
SOUND_TO_A_WRONG_END = "3 * 4 = 12\n12 + 3 = 15\n15 - 2 = 13\nThe answer is 13."
CLUMSY_TO_THE_RIGHT_END = "9 + 9 = 20. 5 * 5 = 30. 6 - 1 = 2. The answer is 14."


def steps(lent=None, **settings):
    return Steps(validate(Steps.Settings, settings, "test"), lent)


def value(reward, text, item=NUTS):
    return reward.score([item], [Trace(item.id, text)])[0].value


@pytest.mark.parametrize(
    ("text", "holds"),
    [
        ("3 + 4 = 7", [True]),
        ("so 3 x 4 = 12, and then 12 \u00f7 5 = 2.4.", [True, True]),
        ("10 / 3 = 3.33", [True]),
        ("10 / 3 = 3.34", [False]),
        ("0.1 + 0.2 = 0.3", [True]),
        ("$1,200 + $34 = $1,234", [True]),
        ("3 + 4 = 7 * 2 = 14", [False]),
        ("(2 + 3) * 4 = 5 * 4 = 20", [True]),
        ("1. 2 + 2 = 4\n2) 2 + 3 = 6", [True, False]),
        ("1 / 0 = 7, x + 1 = 2, 2 ** 3 = 8, 2 3 = 6, 007 + 1 = 8", [True]),
        ("There is nothing here. a = b", []),
        ("= 7", []),
        ("total = 3 + 4 = 7, y - 1 = 3, 7 = 3y, 3 + 4 = 7 apples", [True, True]),
    ],
)
def test_equations_are_worked_out(text, holds):
    assert [equation.holds for equation in equations_in(text)] == holds


@given(st.lists(st.tuples(st.integers(0, 999), st.sampled_from("+-*"), st.integers(1, 99)), min_size=1, max_size=6))
def test_what_python_works_out_holds_and_one_more_does_not(parts):
    results = [eval(f"{a}{sign}{b}") for a, sign, b in parts]
    right = "\n".join(f"{a} {sign} {b} = {r}" for (a, sign, b), r in zip(parts, results, strict=True))
    wrong = "\n".join(f"{a} {sign} {b} = {r + 1}" for (a, sign, b), r in zip(parts, results, strict=True))
    assert [e.holds for e in equations_in(right)] == [True] * len(parts)
    assert [e.holds for e in equations_in(wrong)] == [False] * len(parts)
    assert [e.result for e in equations_in(right)] == [Fraction(r) for r in results]


@given(st.text(alphabet="0123456789+-*/=(). \nx,", max_size=60))
def test_no_text_stops_the_reader(text):
    assert all(equation.holds in (True, False, None) for equation in equations_in(text))


def test_both_levels_are_given_and_combined_by_the_stated_formula():
    score = steps(step_weight=0.4, incoherence=0.2).score(
        [NUTS], [Trace("nuts", "3 * 4 = 12. 12 + 2 = 15. The answer is 14.")]
    )[0]
    assert score.components == {"soundness": 0.5, "coherence": 0.5, "outcome": 1.0, "num_steps": 2.0}
    assert score.value == pytest.approx(0.4 * 0.5 + 0.6 * (1 - 0.2 * 0.5))


@pytest.mark.parametrize("count", ["right_end", "always"])
def test_fine_steps_with_a_wrong_end_score_below_a_clumsy_path_to_a_right_one(count):
    reward = steps(count_steps=count)
    assert value(reward, SOUND_TO_A_WRONG_END) < value(reward, CLUMSY_TO_THE_RIGHT_END)


@settings(max_examples=40)
@given(w=st.floats(0.01, 0.49), p=st.floats(0, 0.99), sound=st.floats(0, 1), whole=st.floats(0, 1))
def test_no_weights_that_are_allowed_let_steps_outweigh_the_end(w, p, sound, whole):
    if (1 - w) * (1 - p) <= w:
        with pytest.raises(SettingsError, match="step_weight"):
            steps(step_weight=w, incoherence=p)
        return
    best_wrong = value(steps(step_weight=w, incoherence=p, count_steps="always"), SOUND_TO_A_WRONG_END)
    told = Lent(scorers={"steps": Told(sound), "coherence": Told(whole)})
    assert best_wrong < value(steps(told, step_weight=w, incoherence=p), "3 * 4 = 12. The answer is 14.") + 1e-12


def test_idle_and_repeated_equations_earn_nothing():
    bare, padded = value(steps(), "The answer is 14."), value(steps(), "14 + 0 = 14\n14 * 1 = 14\nThe answer is 14.")
    assert padded == bare
    once = value(steps(), "3 * 4 = 13. 12 + 2 = 14. The answer is 14.")
    assert value(steps(), "3 * 4 = 13. " + "12 + 2 = 14. " * 9 + "The answer is 14.") == once


def test_neither_short_nor_long_sound_answers_gain_by_length():
    long = "3 + 4 = 7. 7 - 3 = 4. 3 * 4 = 12. 12 + 4 = 16. 16 - 4 = 12. 12 + 2 = 14. The answer is 14."
    assert value(steps(), long) == value(steps(), "3 * 4 = 12. 12 + 2 = 14. The answer is 14.") == 1.0


class Told:
    """Says one value for everything and remembers what it was asked."""

    def __init__(self, told):
        self.told, self.asked = told, []

    def score(self, items, traces):
        self.asked += [(item.instruction, trace.text) for item, trace in zip(items, traces, strict=True)]
        return [Score(self.told, abstained=self.told is None)] * len(items)


def test_lent_scorers_see_each_step_with_what_came_before():
    told = Told(0.25)
    score = steps(Lent(scorers={"steps": told})).score([NUTS], [Trace("nuts", "Think.\nIt is 14.")])[0]
    assert told.asked == [(NUTS.instruction, "Think."), (f"{NUTS.instruction}\nThink.", "It is 14.")]
    assert (score.components["soundness"], score.components["num_steps"]) == (0.25, 2.0)


def test_a_lent_scorer_that_abstains_leaves_what_can_be_worked_out():
    told = Lent(scorers={"steps": Told(None), "coherence": Told(None)})
    text = "3 * 4 = 12. 12 + 2 = 14. The answer is 14."
    assert value(steps(told), text) == value(steps(), text) == 1.0


def test_a_lent_value_out_of_range_is_caught_by_its_part():
    with pytest.raises(DataError, match=r"'steps\.coherence' gave 7"):
        value(steps(Lent(scorers={"coherence": Told(7.0)})), "It is 14.")


def test_an_unjudged_end_is_no_wrong_end():
    reward = steps(verifier={"kind": "language", "code": "fr"})
    score = reward.score([NUTS], [Trace("nuts", "3 * 4 = 12")])[0]
    assert (score.value, score.abstained) == (None, True)


def test_repetition_is_seen_beyond_the_first_words():
    text = " ".join(f"word{n}" for n in range(800))
    reward = Repetition(Repetition.Settings())
    assert value(reward, text) == 0.0
    assert value(reward, text + " and so on it goes" * 400) < -0.4


def test_length_refuses_a_buffer_as_long_as_the_limit():
    with pytest.raises(SettingsError, match="buffer"):
        validate(Length.Settings, {"limit": 64, "buffer": 64}, "rewards.length")


def judged(margin, **settings):
    model = Scripted([], score_of=lambda prompt, text: margin if text.strip() == "A" else 0.0)
    return Judge(validate(Judge.Settings, settings, "test"), Lent(completer=model)).score(
        [NUTS], [Trace("nuts", "14")]
    )[0]


def test_a_judge_keeps_its_order_and_its_middle():
    values = [judged(margin).value for margin in (-3.0, -1.0, 0.0, 1.0, 3.0)]
    assert values == sorted(values)
    assert values[2] == 0.5
    assert values[3] == pytest.approx(0.731, abs=1e-3)
    assert judged(2.0, scale=2.0).value == values[3]


def test_a_judge_that_fails_abstains():
    failed = judged(float("nan"))
    assert (failed.value, failed.abstained) == (None, True)
    assert "abstained" in failed.reason
