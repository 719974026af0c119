"""Health of a run: each rule on planted series and on honest noisy ones, hysteresis, early stop, the figures."""

from __future__ import annotations

import math
import random
from collections.abc import Callable
from typing import Any

import pytest
import torch

from rung.base.lookup import part
from rung.train.advantages import GroupedRewards
from rung.train.health import Alarm, Diagnosis, HealthMonitor, HealthSettings, Outcome, StepHealth, step_health
from rung.train.importance import ImportanceSettings, correct_mismatch
from rung.train.policy import PolicyBatch

HONEST: dict[str, Any] = {
    "loss": 0.0, "grad_norm": 0.5, "reward_mean": 0.3, "reward_spread": 0.45, "mixed_share": 0.6, "entropy": 1.2,
    "kl": 0.02, "drift": 1e-4, "ratio": 1.0, "ratio_max": 1.3, "clipped_low": 0.01, "clipped_high": 0.01, "capped": 0.0,
    "mismatch": 2e-4, "mismatch_max": 0.1, "length_right": 40.0, "length_wrong": 60.0, "truncated": 0.05,
    "unparsable": 0.05, "abstained": 0.01,
}  # fmt: skip
Series = Callable[[int], dict[str, Any]]


def health(step: int, **changes: Any) -> StepHealth:
    return StepHealth(step=step, **{**HONEST, **changes})


def watch(series: Series, steps: int, **settings: Any) -> list[Diagnosis]:
    monitor = HealthMonitor(HealthSettings(**settings))
    return [monitor.observe(health(step, **series(step))) for step in range(steps)]


def noisy(generator: random.Random, step: int) -> dict[str, Any]:
    """An honest run of 120 steps: it learns, its entropy halves, answers of both kinds grow by a tenth, and every
    figure is as noisy as four prompts with eight answers each make it."""
    way = step / 120
    rate = 0.2 + 0.5 * way + generator.gauss(0, 0.08)
    rate = min(max(rate, 0.02), 0.98)
    return {
        "reward_mean": rate, "mixed_share": sum(generator.random() < 0.7 for _ in range(4)) / 4,
        "entropy": 1.2 * (1 - 0.5 * way) * math.exp(generator.gauss(0, 0.15)),
        "kl": 0.05 * way * math.exp(generator.gauss(0, 0.5)), "mismatch": 2e-4 * math.exp(generator.gauss(0, 0.6)),
        "length_right": 40 * (1 + 0.1 * way) * math.exp(generator.gauss(0, 0.15)),
        "length_wrong": None if generator.random() < 0.1 else 60 * (1 + 0.1 * way) * math.exp(generator.gauss(0, 0.2)),
        "truncated": max(0.0, generator.gauss(0.08, 0.06)), "unparsable": max(0.0, generator.gauss(0.06, 0.05)),
    }  # fmt: skip


def falling(step: int) -> float:
    return 1.2 * max(0.02, 1 - step / 40)


PLANTED: dict[str, Series] = {
    "entropy_collapse": lambda step: {"entropy": falling(step)},
    "truncated": lambda step: {"truncated": 0.1 if step < 20 else 0.4},
    "wrong_answers_grow": lambda step: {"length_wrong": 60.0 + 2 * step},
    "dead_groups": lambda step: {"mixed_share": 0.5 if step < 20 else 0.0},
    "kl_runaway": lambda step: {"kl": 0.02 * 1.1**step},
    "mismatch_grows": lambda step: {"mismatch": 2e-4 * 1.08**step},
    "unparsable": lambda step: {"unparsable": 0.0 if step < 20 else 0.6},
    "abstained": lambda step: {"abstained": 0.0 if step < 20 else 0.5},
}


@pytest.mark.parametrize("rule", sorted(PLANTED))
def test_a_planted_illness_raises_its_alarm_and_no_other(rule: str) -> None:
    found = watch(PLANTED[rule], 80)
    assert not any(one.alarms for one in found[:10])
    assert {alarm.rule for one in found for alarm in one.alarms} == {rule}
    last = found[-1].alarms[0]
    assert str(last.since) in last.message
    for evidence in last.evidence:
        assert f"{evidence.figure} {evidence.value:.4g} (limit {evidence.limit:.4g})" in last.message


@pytest.mark.parametrize("rule", sorted(PLANTED))
def test_an_illness_that_lasts_stops_the_run_where_the_settings_say(rule: str) -> None:
    stops = [one.stop for one in watch(PLANTED[rule], 80)]
    assert any(stops) == (rule in HealthSettings().stop_on)
    assert any(one.stop for one in watch(PLANTED[rule], 80, stop_on=(rule,)))
    assert not any(one.stop for one in watch(PLANTED[rule], 80, stop_on=()))
    raised = [one for one in watch(PLANTED[rule], 80, stop_on=(rule,)) if one.alarms]
    first_stop = next(index for index, one in enumerate(raised) if one.stop)
    assert first_stop == HealthSettings().stop_after - HealthSettings().patience


def test_honest_noisy_runs_raise_nothing() -> None:
    """Two hundred of them; one false alarm in a hundred runs would be allowed, a stop never."""
    with_alarm = 0
    for seed in range(200):
        generator = random.Random(seed)
        found = watch(lambda step, g=generator: noisy(g, step), 120)
        with_alarm += any(one.alarms for one in found)
        assert not any(one.stop for one in found), seed
    assert with_alarm <= 2


@pytest.mark.parametrize("rule", sorted(PLANTED))
def test_planted_illnesses_are_found_in_noise_too(rule: str) -> None:
    for seed in range(10):
        generator = random.Random(seed)

        def series(step: int, g: random.Random = generator) -> dict[str, Any]:
            """Noise with the illness over it; what stays flat must, for the rule to hold."""
            still = {"reward_mean": 0.3 + g.gauss(0, 0.02), "length_right": 40 * math.exp(g.gauss(0, 0.05))}
            return {**noisy(g, step), **still, **PLANTED[rule](step)}

        found = watch(series, 100)
        assert any(alarm.rule == rule for one in found for alarm in one.alarms), seed


@pytest.mark.parametrize("rule", ["truncated", "dead_groups", "kl_runaway", "mismatch_grows", "entropy_collapse"])
def test_single_bad_steps_raise_nothing(rule: str) -> None:
    sick = PLANTED[rule](79)
    found = watch(lambda step: sick if step > 20 and step % 9 == 0 else {}, 80)
    assert not any(one.alarms for one in found)


def test_an_alarm_outlasts_a_good_step_and_falls_when_health_returns() -> None:
    settings = {"window": 1, "patience": 3, "stop_after": 6}

    def series(step: int) -> dict[str, Any]:
        """Sick from 10 to 14 and 16 to 17, well at 15 and from 18 on."""
        return {"truncated": 0.9 if 10 <= step <= 17 and step != 15 else 0.0}

    found = watch(series, 25, **settings)
    raised = [step for step, one in enumerate(found) if one.alarms]
    assert raised == list(range(12, 20)), "three steps to rise, three to fall"
    assert found[17].alarms[0].since == 10
    assert [step for step, one in enumerate(found) if one.stop] == [16, 17], "never on a step that is well"


def test_entropy_may_fall_while_the_reward_rises() -> None:
    assert not any(one.alarms for one in watch(lambda s: {"entropy": falling(s), "reward_mean": 0.02 * s}, 80))


def test_right_answers_that_grow_too_are_no_alarm() -> None:
    both = watch(lambda step: {"length_wrong": 60.0 + 2 * step, "length_right": 40.0 + step}, 80)
    assert not any(one.alarms for one in both)


@pytest.mark.parametrize("figure", ["loss", "grad_norm", "kl", "ratio_max"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_not_finite_stops_at_once(figure: str, value: float) -> None:
    found = HealthMonitor(HealthSettings()).observe(health(0, **{figure: value}))
    assert isinstance(found.stop, Alarm)
    assert (found.stop.rule, found.stop.evidence[0].figure) == ("not_finite", figure)


def test_a_resumed_run_stands_where_it_stood() -> None:
    whole = watch(PLANTED["dead_groups"], 60)
    monitor = HealthMonitor(HealthSettings())
    for step in range(30):
        monitor.observe(health(step, **PLANTED["dead_groups"](step)))
    resumed = HealthMonitor(HealthSettings())
    for step in range(30):
        resumed.observe(health(step, **PLANTED["dead_groups"](step)))
    assert [resumed.observe(health(s, **PLANTED["dead_groups"](s))) for s in range(30, 60)] == whole[30:]


def test_the_figures_of_a_step_come_from_its_parts() -> None:
    rewards, groups = [1.0, 0.0, 0.5, None], [0, 0, 1, 1]
    outcomes = [Outcome(4, True), Outcome(6, False, truncated=True), Outcome(2, False, parsed=False), Outcome(8, None)]
    kind, own = part("train.credit", "group_mean")
    credit = kind(own).advantages(GroupedRewards.of(rewards, groups))
    old = torch.tensor([-1.0, -2.0])
    batch = PolicyBatch(old + 0.1, old, torch.tensor([1.0, -1.0]), (2,), old, entropies=torch.tensor([0.5, 1.5]))
    _, mismatch = correct_mismatch(batch, old - 0.2, ImportanceSettings())
    objective, chosen = part("train.objectives", "dapo")
    figures = objective(chosen).policy_loss(batch).figures
    found = step_health(
        3, outcomes, rewards, figures=figures, credit=credit, mismatch=mismatch, loss=0.25, grad_norm=2.0
    )
    assert (found.reward_mean, found.reward_spread) == pytest.approx((0.5, 0.5))
    assert (found.length_right, found.length_wrong) == (4.0, 4.0)
    assert (found.truncated, found.unparsable, found.abstained, found.mixed_share) == (0.25, 0.25, 0.25, 0.5)
    assert (found.entropy, found.ratio) == pytest.approx((1.0, math.exp(0.1)))
    assert found.kl == pytest.approx(math.exp(-0.1) + 0.1 - 1, rel=1e-4)
    assert found.drift == pytest.approx(math.exp(0.1) - 0.1 - 1, rel=1e-4)
    assert found.mismatch == pytest.approx(math.exp(0.2) - 0.2 - 1, rel=1e-4)
    assert found.mismatch_max == pytest.approx(0.2)
