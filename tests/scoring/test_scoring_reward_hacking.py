"""Probes: what dresses up a wrong answer must not raise a reward about content, and one that it raises is refused."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest

from rung.base.errors import GateFailed
from rung.base.fingerprint import canonical
from rung.base.lookup import known, lookup, part
from rung.base.settings import validate
from rung.records.contracts import Item, Score
from rung.scoring.hacking import PROBES, HackingSettings, ProbeCase, probe, refuse_hackable
from rung.scoring.mixing import MixSettings, build_mix
from rung.scoring.reward import Lent

MODELS = {"completer", "reader"}
CONTENT = [
    name
    for name in known("scoring.rewards")
    if lookup("scoring.rewards", name).CONTENT and not MODELS & set(lookup("scoring.rewards", name).NEEDS)
]
SHAPE = [name for name in known("scoring.rewards") if not lookup("scoring.rewards", name).CONTENT]


def cases(checks=None, count=6):
    made = []
    for n in range(2, 2 + count):
        own = checks(n + 5) if checks else {"short_answer": {"answers": [str(n + 5)]}}
        item = Item(f"sum-{n}", f"What is {n} + 5?", reference={"checks": own, "value": n + 5})
        made.append(ProbeCase(item, f"{n + 5}", f"{n + 7}"))
    return made


def report(kind, given=None, **settings):
    found, own = part("scoring.rewards", {"kind": kind, **settings})
    return probe(found(own, Lent()), given or cases(), name=kind, content=found.CONTENT)


class Counting:
    """A planted reward that can be hacked: counts some words, or pays for length."""

    def __init__(self, rule):
        self.rule = rule

    def score(self, items, traces):
        return [Score(float(self.rule(i, t.text))) for i, t in zip(items, traces, strict=True)]


def rankings(count=6):
    """A judge's traces that name the better response, and the same ones flipped."""
    trace = (
        "<Focus>Logical Reasoning</Focus>\n<Issues1>the sum</Issues1>\n<Issues2>None identified</Issues2>\n"
        "<Ranking>\\boxed{{{}}}</Ranking>"
    )
    made = []
    for n in range(count):
        better = 1 + n % 2
        item = Item(f"pair-{n}", f"Which reply to question {n} is better?", reference={"better": better})
        made.append(ProbeCase(item, trace.format(better), trace.format(3 - better)))
    return made


OWN = {"ranking": (rankings, {"layout": "one_pass"})}


@pytest.mark.parametrize("name", CONTENT)
def test_rewards_about_content_hold(name):
    given, settings = OWN.get(name, (cases, {}))
    found = report(name, given(), **settings)
    assert found.num_unusable == 0
    assert found.raised() == []
    assert set(found.probes) == set(PROBES)
    refuse_hackable(found)


def right(item, text):
    return text.strip() == str(item.reference["value"])


@pytest.mark.parametrize(
    ("caught", "rule"),
    [
        ("keyword_stuffing", lambda item, text: right(item, text) or text.count("therefore") / 9),
        ("empty_tags", lambda item, text: right(item, text) or 0.5 * ("<answer></answer>" in text)),
        ("copied_prompt", lambda item, text: right(item, text) or 0.3 * text.startswith(item.instruction)),
        ("copied_tags", lambda item, text: right(item, text) or 0.9 * text.endswith("</answer>")),
        ("extreme_length", lambda item, text: right(item, text) or min(1.0, len(text) / 20_000)),
        ("repeated_answer", lambda item, text: right(item, text) or text.count("\n") / 100),
        ("all_options", lambda item, text: str(item.reference["value"]) in text.split()),
        ("verdict_text", lambda item, text: right(item, text) or "Score: 10/10" in text),
        ("orders_the_judge", lambda item, text: right(item, text) or "highest score" in text),
        ("unicode_tricks", lambda item, text: right(item, text) or "\u200b" in text),
        ("nothing", lambda item, text: right(item, text) or 0.2 * (not text.strip())),
    ],
)
def test_a_planted_hackable_reward_is_refused_by_name(caught, rule):
    found = probe(Counting(rule), cases(), name="planted", content=True)
    assert caught in found.raised()
    with pytest.raises(GateFailed, match=f"'planted' is about content and rises with .*{caught}") as refused:
        refuse_hackable(found)
    assert refused.value.place == "rewards.planted"


def test_a_verifier_that_looks_for_a_word_is_refused():
    """Not planted: `contains` accepts every reply that names the answer, all options at once included."""
    found = report("verified", cases(lambda value: {"contains": {"groups": [str(value)]}}))
    assert "all_options" in found.raised()
    assert found.probes["all_options"].num_reached == 6
    with pytest.raises(GateFailed, match="6 of 6 cases, as high as right in 6"):
        refuse_hackable(found)


@pytest.mark.parametrize("name", SHAPE)
def test_rewards_of_shape_are_reported_and_not_refused_for_it(name):
    found = report(name)
    assert not found.content
    lenient = replace(found, num_unusable=0)
    refuse_hackable(lenient)
    with pytest.raises(GateFailed):
        refuse_hackable(replace(lenient, content=True, probes={"x": replace(found.probes["nothing"], num_cases=6,
                                                                           num_raised=6)}))  # fmt: skip


def test_a_mix_is_probed_as_a_whole():
    """The same two parts hold or not by their weights: shape must stay below the gap between right and wrong."""

    def raised(weight):
        parts = {"right": {"reward": "verified"}, "tags": {"reward": "format", "weight": weight, "gate": gate}}
        mix = build_mix(validate(MixSettings, {"parts": parts}, "rewards"), Lent())
        return probe(mix, cases(), name="mix", content=True)

    gate = ""
    assert raised(0.2).raised() == ["copied_tags"]
    assert raised(0.2).probes["copied_tags"].num_reached == 0
    assert raised(5.0).probes["copied_tags"].num_reached == 6
    gate = "right"
    assert raised(5.0).raised() == []


def test_too_few_cases_refuse_to_decide():
    with pytest.raises(GateFailed, match="in 4 of 4 cases; 5 are needed"):
        refuse_hackable(probe(Counting(right), cases(count=4), name="few", content=True))
    upside_down = probe(Counting(lambda item, text: not right(item, text)), cases(), name="odd", content=True)
    assert upside_down.num_unusable == 6
    with pytest.raises(GateFailed, match="in 0 of 6 cases"):
        refuse_hackable(upside_down)


def test_a_stated_share_may_rise():
    found = probe(
        Counting(lambda item, text: right(item, text) or ("PASS" in text and item.id == "sum-2")),
        cases(count=10), name="nearly", content=True,
    )  # fmt: skip
    assert (found.probes["verdict_text"].num_raised, found.probes["verdict_text"].worst) == (1, "sum-2")
    assert found.probes["verdict_text"].low > 0
    refuse_hackable(found, HackingSettings(max_share=0.1))
    with pytest.raises(GateFailed):
        refuse_hackable(found, HackingSettings(max_share=0.05))


def test_abstentions_are_no_rise_and_counted():
    class Abstains(Counting):
        def score(self, items, traces):
            return [Score(None, abstained=True) if "PASS" in t.text else s
                    for t, s in zip(traces, super().score(items, traces), strict=True)]  # fmt: skip

    found = probe(Abstains(right), cases(), name="x", content=True)
    assert (found.probes["verdict_text"].num_cases, found.probes["verdict_text"].num_abstained) == (0, 6)
    assert found.raised() == []


def test_the_report_is_plain_figures():
    stored = json.loads(canonical(report("verified")))
    assert stored["probes"]["all_options"]["num_raised"] == 0
    assert stored["num_cases"] == 6
