"""The contest of reward models on a tiny body: every contender, a judge that joins, the page of the figures."""

from __future__ import annotations

from experiments import reward_models
from experiments._reward_contest import BASELINES, LEARNERS, Body, contest, judged

from rung.datagen.labelled.arithmetic_steps import ArithmeticSteps
from rung.models.load import load

DATA = ArithmeticSteps(ArithmeticSteps.Settings(count=16, num_steps=2, kinds=("sound", "step", "end"))).make()


def test_a_judge_joins_the_table_beside_all_others() -> None:
    body = Body(load("tiny:llama", precision="float32"))
    perfect = judged("perfect", lambda pairs: [1.0] * len(pairs))
    absent = judged("absent", lambda pairs: [None] * len(pairs))
    figures, wins = contest(body, DATA, 1, (perfect, absent))
    assert list(figures) == [one.name for one in (*BASELINES, *LEARNERS)] + ["perfect", "absent"]
    assert figures["perfect"]["rate"] == 1.0
    assert figures["absent"]["rate"] == (figures["absent"]["n"] // 2) / figures["absent"]["n"]
    assert {len(row) for row in wins.values()} == {figures["perfect"]["n"]}
    assert set(figures["perfect"]["by_kind"]) == {"sound-step", "sound-end", "step-end"}
    read = body.num_tokens
    contest(body, DATA, 1)
    assert body.num_tokens == read, "every answer is read once"


def test_the_page_ranks_by_accuracy_and_says_what_was_left_out() -> None:
    body = Body(load("tiny:llama", precision="float32"))
    found = reward_models._measured(body, DATA, (1,), (judged("perfect", lambda pairs: [1.0] * len(pairs)),))
    result = {
        "source": "s",
        "seeds": [1],
        "precision": "p",
        "sets": {"chains": found, "people": {"skipped": "no file"}},
    }
    page = reward_models.page(result)
    rows = [line for line in page.splitlines() if "%" in line and line.startswith("| ")]
    assert rows[0].startswith("| perfect | 100.0%")
    assert "Skipped: no file." in page
