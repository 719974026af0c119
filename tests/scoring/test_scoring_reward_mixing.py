"""Rewards combined: weights that mean what they say, nothing lost, nothing leaking between groups."""

from __future__ import annotations

import math
import statistics

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.base.errors import DataError, SettingsError
from rung.base.events import Events
from rung.base.settings import validate
from rung.records.contracts import Completion, Item, Score, Trace
from rung.records.scripted import Scripted
from rung.scoring.mixing import Mix, MixSettings, build_mix, normalise
from rung.scoring.reward import Lent, Range

VALUES = st.lists(st.one_of(st.none(), st.integers(-8, 8).map(lambda n: n / 4)), min_size=1, max_size=24)


TENS = Range(-10.0, 10.0)


class Told:
    """A reward that plays its values back; remembers which answers it was asked about."""

    def __init__(self, values, limits=TENS):
        self.values, self.range, self.asked = list(values), limits, []

    def score(self, items, traces):
        self.asked += [int(trace.text) for trace in traces]
        values = [self.values[int(trace.text)] for trace in traces]
        return [Score(value, abstained=value is None) for value in values]


class Kept:
    """A sink that remembers metrics."""

    def __init__(self):
        self.metrics = {}

    def handle(self, event):
        self.metrics[event["name"]] = event["value"]

    def close(self):
        """Nothing to release."""


def mixed(columns, groups, parts=None, **settings):
    """The mix of told columns; `parts` adds settings by name."""
    own = {name: {"reward": "format", **(parts or {}).get(name, {})} for name in columns}
    built = Mix(validate(MixSettings, {"parts": own, **settings}, "rewards"),
                {name: c if isinstance(c, Told) else Told(c) for name, c in columns.items()})  # fmt: skip
    items = [Item(str(group), "?") for group in groups]
    return built.mixed(items, [Trace(str(group), str(n)) for n, group in enumerate(groups)], groups)


def totals(result):
    return [score.value for score in result.scores]


def test_eight_answers_with_one_success_give_the_known_values():
    out, constant = normalise([1.0] + [0.0] * 7, ["g"] * 8)
    assert out == pytest.approx([2.4749] + [-0.3536] * 7, abs=1e-4)
    assert constant == 0


def test_each_part_is_normalised_before_it_is_weighted():
    """A part with values a hundred times as wide adds exactly what its weight says, not a hundred times as much."""
    small, wide = [0.0, 1.0, 0.0, 1.0], [0.0, 0.0, 100.0, 100.0]
    parts = {"small": {"weight": 1.0}, "wide": {"weight": 0.5}}
    limits = {"small": Told(small), "wide": Told(wide, Range(0, 100))}
    result = mixed(limits, ["g"] * 4, parts)
    unit = math.sqrt(3) / 2
    assert totals(result) == pytest.approx([-1.5 * unit, 0.5 * unit, -0.5 * unit, 1.5 * unit])
    assert result.figures["small"].influence == pytest.approx(2 * result.figures["wide"].influence)
    assert totals(mixed(limits, ["g"] * 4, parts, combine="sum")) == [0.0, 1.0, 50.0, 51.0]


def test_a_part_that_is_constant_in_the_group_adds_nothing():
    result = mixed({"right": [0.0, 1.0, 0.0, 1.0], "tags": [1.0, 1.0, 0.0, 1.0]}, ["a", "a", "b", "b"])
    assert [score.components["tags"] for score in result.scores][:2] == [0.0, 0.0]
    assert (result.figures["tags"].num_constant, result.figures["tags"].num_groups) == (1, 2)


def test_noise_below_the_stated_spread_is_constant():
    noisy = [0.5, 0.5 + 1e-9, 0.5, 0.5]
    assert totals(mixed({"judge": noisy}, ["g"] * 4)) == [0.0] * 4
    assert totals(mixed({"judge": [0.5, 0.6, 0.5, 0.5]}, ["g"] * 4, {"judge": {"min_spread": 0.02}})) == [0.0] * 4
    assert totals(mixed({"judge": [0.5, 0.6, 0.5, 0.5]}, ["g"] * 4))[1] > 1


def test_an_abstention_is_left_out_and_counted_and_no_zero():
    result = mixed({"right": [1.0, None, 0.0, 1.0], "tags": [1.0, 1.0, 0.0, 0.0]}, ["g"] * 4)
    present = [1.0, 0.0, 1.0]
    expected = (1.0 - statistics.mean(present)) / statistics.stdev(present)
    assert result.scores[0].components["right"] == pytest.approx(expected)
    assert result.scores[1].components["right"] == 0.0
    assert "raw.right" not in result.scores[1].components
    assert result.scores[1].reason == "abstained: right"
    assert (result.figures["right"].num_scored, result.figures["right"].num_abstained) == (3, 1)
    assert result.figures["right"].mean == pytest.approx(2 / 3)


def test_an_answer_that_no_part_judged_abstains():
    result = mixed({"right": [1.0, None, 0.0], "tags": [1.0, None, 0.0]}, ["g"] * 3)
    assert (result.scores[1].value, result.scores[1].abstained) == (None, True)
    assert totals(result)[0] == pytest.approx(-totals(result)[2])


def test_a_required_part_takes_the_answer_out_of_every_mean():
    columns = {"right": [1.0, None, 0.0], "tags": [1.0, -9.0, 0.0]}
    result = mixed(columns, ["g"] * 3, {"right": {"required": True}})
    assert result.scores[1].abstained
    assert totals(result)[0] == pytest.approx(2 * math.sqrt(0.5))
    assert not mixed(columns, ["g"] * 3).scores[1].abstained


def test_a_gated_part_is_asked_only_where_its_gate_is_open():
    steps = Told([0.9, 0.2, 0.7, 0.4])
    result = mixed({"steps": steps, "right": [1.0, 0.0, 1.0, None]}, ["g"] * 4, {"steps": {"gate": "right"}})
    assert steps.asked == [0, 2]
    added = [score.components["steps"] for score in result.scores[:3]]
    assert added == pytest.approx([math.sqrt(0.5), 0.0, -math.sqrt(0.5)])
    assert result.scores[3].abstained  # its end was not judged, so nothing is known about it
    assert (result.figures["steps"].num_gated, result.figures["steps"].num_abstained) == (2, 0)


@pytest.mark.parametrize(
    ("parts", "message", "hint"),
    [
        ({"steps": {"gate": "rihgt"}}, "no other part is called 'rihgt'", "did you mean 'right'"),
        ({"steps": {"gate": "steps"}}, "no other part is called 'steps'", "known: right"),
        ({"steps": {"gate": "right"}, "right": {"gate": "steps"}}, "is gated itself", "no gate"),
        ({"steps": {"gate": "right", "gate_from": 99.0}}, "always or never reached", ""),
        ({"steps": {"gate": "right", "gate_from": -10.0}}, "always or never reached", ""),
    ],
)
def test_gates_that_cannot_work_are_refused(parts, message, hint):
    with pytest.raises(SettingsError, match=message) as caught:
        mixed({"steps": [1.0], "right": [1.0]}, ["g"], parts)
    assert hint in caught.value.hint


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf, 10.1])
def test_a_value_that_is_no_number_or_out_of_range_is_caught_with_its_part(value):
    with pytest.raises(DataError, match="the reward 'odd' gave") as caught:
        mixed({"fine": [1.0, 0.0], "odd": [0.0, value]}, ["g"] * 2)
    assert caught.value.place == "rewards.odd"


def test_batch_scale_gives_all_totals_one_deviation():
    columns, groups = {"right": [1.0, 0.0, 0.5, None, 0.1, 0.2]}, ["a", "a", "a", "b", "b", "b"]
    values = [v for v in totals(mixed(columns, groups, {"right": {"weight": 7.0}}, batch_scale=True)) if v is not None]
    assert statistics.stdev(values) == pytest.approx(1.0)
    assert statistics.mean(values) == pytest.approx(0.0, abs=1e-12)


def test_a_weight_of_zero_is_logged_and_adds_nothing():
    result = mixed({"right": [1.0, 0.0], "watched": [0.0, 1.0]}, ["g"] * 2, {"watched": {"weight": 0.0}})
    assert totals(result) == totals(mixed({"right": [1.0, 0.0]}, ["g"] * 2))
    assert result.figures["watched"].mean == 0.5


@given(values=VALUES, data=st.data())
def test_order_changes_nothing_to_the_bit(values, data):
    groups = [n % 3 for n in range(len(values))]
    order = data.draw(st.permutations(range(len(values))))
    plain, _ = normalise(values, groups)
    shuffled, _ = normalise([values[n] for n in order], [groups[n] for n in order])
    assert shuffled == [plain[n] for n in order]


@given(values=VALUES, scale=st.floats(1e-3, 1e3), shift=st.integers(-5, 5))
def test_unit_and_origin_of_a_part_change_nothing(values, scale, shift):
    groups = [n % 2 for n in range(len(values))]
    plain, _ = normalise(values, groups, 1e-9)
    other, _ = normalise([None if v is None else v * scale + shift * scale for v in values], groups, 1e-9 * scale)
    assert other == pytest.approx(plain, abs=1e-9)


@given(first=VALUES, second=VALUES)
def test_groups_never_mix(first, second):
    alone = totals(mixed({"x": first, "y": first[::-1]}, ["a"] * len(first)))
    both = mixed({"x": [*first, *second], "y": [*first[::-1], *second]}, ["a"] * len(first) + ["b"] * len(second))
    assert totals(both)[: len(first)] == alone


@given(values=VALUES)
def test_every_part_adds_up_to_nothing_over_its_group(values):
    out, _ = normalise(values, [0] * len(values))
    assert math.fsum(out) == pytest.approx(0.0, abs=1e-9)


RECIPE = {
    "right": {"reward": "verified", "required": True},
    "tags": {"reward": {"kind": "format", "tags": ["think", "answer"]}, "weight": 0.2},
    "long": {"reward": {"kind": "length", "limit": 40, "buffer": 20}, "weight": 0.5},
    "again": {"reward": "repetition", "weight": 0.1},
    "judge": {"reward": {"kind": "judge", "scale": 2.0}, "weight": 0.3, "gate": "right"},
}


def test_a_run_with_five_rewards_logs_each_one():
    model = Scripted([], score_of=lambda prompt, text: -0.1 if text.strip() == "A" else -1.0)
    built = build_mix(validate(MixSettings, {"parts": RECIPE}, "rewards"), Lent(completer=model))
    item = Item("sum", "What is 7 + 5?", reference={"checks": {"number": {"value": 12}}})
    texts = ["7 + 5 = 12", "7 + 5 = 13", "<think>seven</think><answer>12</answer>", ""]
    traces = [Trace("sum", text, Completion("sum", text, text, tuple(range(30)), "eos", 0)) for text in texts]
    kept, result = Kept(), built.mixed([item] * 4, traces, ["sum"] * 4)
    result.log(Events([kept]), step=3)
    for name in RECIPE:
        assert {f"reward/{name}/{figure}" for figure in ("mean", "influence", "num_abstained")} <= kept.metrics.keys()
    assert kept.metrics["reward/right/mean"] == 0.5
    assert kept.metrics["reward/long/mean"] == -0.5
    assert kept.metrics["reward/judge/num_gated"] == 2
    assert built.score([item] * 4, traces) == list(result.scores)
    assert totals(result)[2] == max(totals(result))


@pytest.mark.parametrize(
    ("reward", "place", "hint"),
    [
        ("verfied", "rewards.parts.x.reward", "did you mean 'verified'"),
        ({"kind": "format", "tag": ["a"]}, "rewards.parts.x.reward.format.tag", "did you mean 'tags'"),
        ({"kind": "verified", "verifier": {"kind": "nmber"}}, "verified.verifier", "did you mean 'number'"),
    ],
)
def test_an_unknown_name_fails_with_the_nearest(reward, place, hint):
    with pytest.raises(SettingsError) as caught:
        build_mix(validate(MixSettings, {"parts": {"x": {"reward": reward}}}, "rewards"), Lent())
    assert caught.value.place == place
    assert hint in caught.value.hint
