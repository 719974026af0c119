"""Every reward in the folder keeps the same promises; a new file arrives tested."""

import inspect
import math

import pytest

from rung.base.errors import DataError, SettingsError
from rung.base.lookup import known, lookup
from rung.base.settings import Settings, validate
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.records.scripted import Scripted
from rung.scoring.reward import Lent, Range, Reward, checked, example_trace

NAMES = known("scoring.rewards")
CASES = [(name, index) for name in NAMES for index in range(len(lookup("scoring.rewards", name).EXAMPLES))]
ODD = ["", " \n", "\x00", "a" * 4000, "1 = " * 900, "(" * 900 + "= 1", "\u202e\u200b12", "<think>" * 500, "12 " * 900]


class Halves:
    """A reward model of two attributes and two levels that says the same of every answer and cannot read none."""

    levels = (0.25, 0.75)
    attributes = {"helpfulness": 1.0, "verbosity": 1.0}

    def read(self, items, traces):
        return [((0.5, 1.0), (0.0, 0.5)) if trace.text.strip() else None for trace in traces]


def lent(of=0.0):
    completer = Scripted([], score_of=lambda prompt, text: of if text.strip() == "A" else -1.0)
    return Lent(completer=completer, readers={"model": Halves()})


def built(name, settings, of=-1.0):
    kind = lookup("scoring.rewards", name)
    return kind(validate(kind.Settings, settings, "test"), lent(of))


def item_of(kind, example):
    return Item("i", kind.INSTRUCTION, reference=example.reference)


@pytest.mark.parametrize(("name", "index"), CASES)
def test_examples_come_out_as_written(name, index):
    kind = lookup("scoring.rewards", name)
    example = kind.EXAMPLES[index]
    reward = built(name, example.settings)
    score = reward.score([item_of(kind, example)], [example_trace(example, "i")])[0]
    assert score.abstained == (example.expected is None), score.reason
    assert score.value == (None if example.expected is None else pytest.approx(example.expected)), score.reason


@pytest.mark.parametrize("name", NAMES)
def test_shape_of_a_reward(name):
    kind = lookup("scoring.rewards", name)
    reward = built(name, kind.EXAMPLES[0].settings)
    assert issubclass(kind, Reward)
    assert isinstance(reward, Scorer)
    assert issubclass(kind.Settings, Settings)
    assert all(field.description for field in kind.Settings.model_fields.values())
    assert math.isfinite(reward.range.low)
    assert reward.range.low < reward.range.high < math.inf
    assert inspect.getmodule(kind).__doc__
    assert len({example.expected for example in kind.EXAMPLES}) > 1 or name == "judge"


@pytest.mark.parametrize("name", NAMES)
def test_the_range_holds_on_odd_text_and_nothing_depends_on_the_neighbours(name):
    kind = lookup("scoring.rewards", name)
    for example in kind.EXAMPLES[:3]:
        reward = built(name, example.settings, of=-700.0)
        texts = [*ODD, *(one.reply for one in kind.EXAMPLES)]
        items = [item_of(kind, example)] * len(texts)
        together = reward.score(items, [Trace("i", text) for text in texts])
        assert together == reward.score(items, [Trace("i", text) for text in texts])
        backwards = reward.score(items, [Trace("i", text) for text in reversed(texts)])
        assert together == list(reversed(backwards))
        for score in together:
            assert score.abstained == (score.value is None)
            assert score.value is None or reward.range.low <= score.value <= reward.range.high


@pytest.mark.parametrize("name", NAMES)
def test_what_a_reward_needs_is_what_it_says(name):
    kind = lookup("scoring.rewards", name)
    example = next((one for one in kind.EXAMPLES if one.expected is not None), None)
    if {"completer", "reader"} & set(kind.NEEDS):
        with pytest.raises(SettingsError, match="needs a model"):
            kind(validate(kind.Settings, example.settings, "test"))
    else:
        kind(validate(kind.Settings, example.settings, "test"))
    if "reference" in kind.NEEDS:
        with pytest.raises(DataError, match="no checks"):
            built(name, example.settings).score([Item("i", "?")], [Trace("i", "x")])
    if "tokens" in kind.NEEDS:
        score = built(name, example.settings).score([Item("i", "?")], [Trace("i", "x")])[0]
        assert score.abstained
        assert score.value is None


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("value", [math.nan, math.inf, None, 1e9])
def test_a_value_that_is_none_is_caught_by_name(name, value, monkeypatch):
    kind = lookup("scoring.rewards", name)
    reward = built(name, kind.EXAMPLES[0].settings)
    monkeypatch.setattr(kind, "judge", lambda self, items, traces: [Score(value)])
    with pytest.raises(DataError, match=f"the reward '{name}' gave") as caught:
        reward.score([Item("i", "?")], [Trace("i", "x")])
    assert caught.value.place == f"rewards.{name}"


@pytest.mark.parametrize("name", NAMES)
def test_pairs_that_do_not_belong_together_are_refused(name):
    reward = built(name, lookup("scoring.rewards", name).EXAMPLES[0].settings)
    with pytest.raises(DataError, match="was given for item"):
        reward.score([Item("i", "?")], [Trace("j", "x")])
    with pytest.raises(DataError, match="1 items but 0 traces"):
        reward.score([Item("i", "?")], [])


def test_an_abstention_passes_as_it_is():
    left_out = Score(None, "timed out", abstained=True)
    assert checked(left_out, Range(0, 1), "x", "i") is left_out
