"""Every verifier in the folder keeps the same promises; a new file arrives tested."""

import inspect

import pytest

from rung.base.lookup import known, lookup
from rung.base.settings import Settings, validate
from rung.records.contracts import Item, Scorer, Trace

NAMES = known("scoring.verifiers")
CASES = [(name, index) for name in NAMES for index in range(len(lookup("scoring.verifiers", name).EXAMPLES))]


def judged(kind, settings, reply):
    item = Item("i", kind.INSTRUCTION)
    scorer = kind(validate(kind.Settings, settings, "test"))
    return scorer.score([item], [Trace("i", reply)])[0]


@pytest.mark.parametrize(("name", "index"), CASES)
def test_examples_come_out_as_written(name, index):
    kind = lookup("scoring.verifiers", name)
    settings, reply, expected = kind.EXAMPLES[index]
    score = judged(kind, settings, reply)
    assert score.value == (None if expected is None else float(expected)), score.reason
    assert score.abstained == (expected is None)


@pytest.mark.parametrize("name", NAMES)
def test_shape_of_a_verifier(name):
    kind = lookup("scoring.verifiers", name)
    assert issubclass(kind.Settings, Settings)
    assert len(kind.Settings.model_fields) <= 4
    assert all(field.description for field in kind.Settings.model_fields.values())
    assert 6 <= len(kind.EXAMPLES) <= 12
    outcomes = {expected for _, _, expected in kind.EXAMPLES}
    assert {True, False} <= outcomes
    assert inspect.getmodule(kind).__doc__
    settings = validate(kind.Settings, kind.EXAMPLES[0][0], "test")
    assert isinstance(kind(settings), Scorer)


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("nothing", ["", "  \n\t "])
def test_empty_replies_and_echoes_fail(name, nothing):
    kind = lookup("scoring.verifiers", name)
    for settings, _, _ in kind.EXAMPLES:
        assert judged(kind, settings, nothing).value == 0.0
        assert judged(kind, settings, f" {kind.INSTRUCTION.upper()}\n").value == 0.0


@pytest.mark.parametrize("name", NAMES)
def test_an_answer_of_another_length_is_judged_alike_unless_the_setting_is_a_limit(name):
    if name in {"word_limit", "line_count", "ends_with", "ordered", "count_items", "json_format", "exact_text"}:
        pytest.skip("the instruction states what the whole reply must be")
    kind = lookup("scoring.verifiers", name)
    settings, reply, _ = next(example for example in kind.EXAMPLES if example[2] is True)
    tail = {"case_format": " MORE." * 150, "not_echo": " And it barks at every bird." * 30}.get(
        name, "\n\nHmm. Such a thing is known to many." * 20
    )
    tail = tail if name != "language" else f" {reply}" * 30
    tail = tail if name != "excludes" else " Big big big big big big." * 40
    assert judged(kind, settings, reply + tail).value == 1.0
