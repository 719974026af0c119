"""Judging in another process: limits hold, threads may ask, a killed process is replaced."""

import os
import signal
import threading

import pytest

from rung.base.errors import MissingDependency, WorkerLost
from rung.records.contracts import Item, Trace
from rung.scoring.apart.client import Apart, Overrun, shared
from rung.scoring.verifiers.math import Math

HALF = {"gold": "1/2", "given": "0.5", "decimals": 10}


@pytest.fixture
def mathematics():
    apart = Apart("mathematics")
    yield apart
    apart.close()


def score(reply, instruction="What is half of one?", **settings):
    item = Item("i", instruction)
    return Math(Math.Settings(**{"gold": "1/2", **settings})).score([item], [Trace("i", reply)])[0]


def test_time_is_processor_time_and_the_next_call_finds_a_fresh_process(mathematics):
    assert mathematics.call(HALF, 20)["same"]
    with pytest.raises(Overrun, match="processor time"):
        mathematics.call({**HALF, "given": "9^{9^{9^{9}}} - 9^{9^{9}}"}, 0.4)
    assert mathematics.call(HALF, 20)["same"]
    assert mathematics.num_starts == 2


def test_a_process_that_dies_is_replaced_once_unseen(mathematics):
    assert mathematics.call(HALF, 20)["same"]
    os.kill(mathematics._process.pid, signal.SIGSEGV)
    assert mathematics.call(HALF, 20)["same"]
    assert mathematics.num_starts == 2


def test_memory_has_a_limit():
    small = Apart("mathematics", memory_bytes=40 << 20)  # too little to load sympy
    with pytest.raises((Overrun, WorkerLost)):
        small.call(HALF, 20)
    small.close()


def test_any_thread_may_ask_and_gets_the_truth():
    """verl issue 5635: an alarm that only works in the main thread made every score 0."""
    found = []

    def ask():
        found.append(score("\\boxed{0.5}").value)

    threads = [threading.Thread(target=ask) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == [1.0] * 4


def test_a_missing_package_is_named(monkeypatch, mathematics):
    monkeypatch.setattr(mathematics, "_exchange", lambda line, seconds: {"missing": "math_verify"})
    with pytest.raises(MissingDependency, match="math-verify"):
        mathematics.call(HALF, 20)


@pytest.mark.parametrize("reply", ["1/2", "0.5", "2/4", "\\frac{2}{4}", "50\\%", "0.50", "x = 1/2"])
def test_item_438_equivalent_forms_match(reply):
    assert score(reply).value == 1.0


@pytest.mark.parametrize("reply", ["0.51", "-1/2", "2/1", "0.05", "1/2, 1/3", "1/2 or 1/3", "half", "1", "0.500001"])
def test_item_438_near_misses_do_not(reply):
    assert score(reply).value == 0.0


def test_the_comparison_is_asymmetric_with_the_gold_answer_first():
    """An inequality as gold accepts its interval as the answer; the other way round it does not."""
    assert score("x \\in (-\\infty, 3)", gold="x < 3").value != score("x < 3", gold="(-\\infty, 3)").value


def test_copied_and_unfinished_expressions_earn_nothing():
    asked = "Compute 7 + 5 * 2."
    assert score("7+5*2", asked, gold="17").value == 0.0
    assert score("7+5*2", asked, gold="17", may_copy=True).value == 1.0
    assert score("12 + 5", asked, gold="17").value == 1.0
    assert score("\\sum_{i=1}^{2} i", gold="3").value == 0.0


def test_an_unreadable_gold_answer_abstains_and_says_so():
    found = score("1", gold="\\frac{")
    assert found.abstained
    assert "cannot be read" in found.reason


def test_nothing_of_the_reply_is_evaluated(tmp_path):
    mark = tmp_path / "mark"
    for text in (f"__import__('os').system('touch {mark}')", f"[open('{mark}','w')]", f"{{exec(\"open('{mark}')\")}}"):
        assert score(text).value == 0.0
        assert score(f"\\boxed{{{text}}}").value == 0.0
    assert not mark.exists()


def test_the_shared_process_is_one():
    assert shared("mathematics") is shared("mathematics")
