"""The KL to the reference: measured on what was drawn, held at a target, and never too far in what is published."""

from __future__ import annotations

import itertools
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rollout_toys import ITEMS, Exam, toy

from rung.base.errors import BudgetSpent, SettingsError
from rung.train import rollout_loop
from rung.train.credit.group_mean_std import GroupMeanStd
from rung.train.reference import choose_reference
from rung.train.rollout_batch import draw_batch
from rung.train.rollout_kl import held_coefficient, read_reference
from rung.train.rollout_settings import KlControlSettings, RolloutSettings

KL: dict[str, Any] = {"objective": {"kind": "grpo", "kl_coefficient": 0.01}}
LEARN: dict[str, Any] = {"num_steps": 16, "group_size": 16, "eval_interval": 16, "learning_rate": 1e-2, **KL}


def test_the_coefficient_rises_with_the_distance_beyond_the_target() -> None:
    control = KlControlSettings(target=0.2, strength=4.0, highest=3.0)
    assert held_coefficient(0.02, 0.0, control) == held_coefficient(0.02, 0.2, control) == 0.02
    assert held_coefficient(0.02, 0.3, control) == pytest.approx(0.02 + 4.0 * 0.5)
    assert held_coefficient(0.02, 0.6, control) == 3.0
    assert held_coefficient(0.02, None, control) == held_coefficient(0.02, 9.0, None) == 0.02


def test_held_at_a_target_a_run_learns_and_stays_where_it_is_allowed(tmp_path: Path) -> None:
    found = {}
    for name, changes in (("free", {}), ("held", {"kl_control": {"target": 0.1}})):
        one = toy()
        run = one.go(tmp_path / name, **LEARN, **changes)
        rates = [sum(r.accuracy or 0.0 for r in records) / len(records) for records in one.records.values()]
        found[name] = [max(health.kl or 0.0 for health in run.state.history), max(rates[-3:]) - rates[0]]
        coefficients = [health.kl_coefficient or 0.0 for health in run.state.history]
        assert coefficients[0] == 0.01
        assert (max(coefficients) > 0.1) == (name == "held")
    assert found["free"][0] > 0.4
    assert found["held"][0] < 0.25
    assert found["held"][1] > 0.1, "it learns all the same"


def test_what_is_measured_is_the_first_draw_thrown_away_groups_included() -> None:
    one, settings = toy(), RolloutSettings(prompts_per_step=6, group_size=2, truncated="as_is", **KL)
    reference = choose_reference(one.loaded.network)
    with torch.no_grad():
        for parameter in one.loaded.network.parameters():
            parameter += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    batch = draw_batch(1, 0, ITEMS, one.parts(), settings, credit=GroupMeanStd(GroupMeanStd.Settings()))
    held = read_reference(reference, batch, settings)
    assert 0 < len([g for g in batch.drawn[:6] if g in batch.kept]) < 6 < len(batch.drawn)

    def mean(groups: Any) -> float:
        rollouts = [one.rollout for group in groups for one in group.played]
        values = zip(rollouts, reference.logprobs(rollouts, "float32", 4096), strict=True)
        gaps = [own - other for rollout, held in values for own, other in zip(rollout.logprobs, held, strict=True)]
        return sum(gaps) / len(gaps)

    assert held.kl == pytest.approx(mean(batch.drawn[:6]), abs=1e-6)
    assert abs(held.kl - mean(batch.kept)) > 1e-3
    kept = [one.rollout for group in batch.kept for one in group.played]
    alone = reference.logprobs(kept, "float32", 4096)
    for own, other in zip(held.of_kept(batch), alone, strict=True):
        assert own == pytest.approx(other, abs=1e-5)


def measured(monkeypatch: Any, kl_of: Callable[[int], float]) -> None:
    """From here on every step reads this KL, whatever it is; the rest of the reference's word stays."""

    def read(reference: Any, batch: Any, settings: Any) -> Any:
        return replace(read_reference(reference, batch, settings), kl=kl_of(batch.step))

    monkeypatch.setattr(rollout_loop, "read_reference", read)


def test_a_controlled_run_that_was_stopped_goes_on_to_the_bit(tmp_path: Path, monkeypatch: Any) -> None:
    measured(monkeypatch, lambda step: 0.1 * step)
    control, count = {"kl_control": {"target": 0.25}, **KL}, itertools.count(1)
    straight, broken, resumed = toy("lora"), toy("lora"), toy("lora")
    whole = straight.go(tmp_path / "a", **control)

    def stop(tokens: int) -> None:
        if next(count) == 3:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        broken.go(tmp_path / "b", on_step=stop, **control)
    rest = resumed.go(tmp_path / "b", **control)
    assert rest.resumed_from == 3
    assert rest.state.history == whole.state.history
    found = [health.kl_coefficient for health in whole.state.history]
    assert found == pytest.approx([0.01, 0.01, 1.01, 3.01, 5.01, 7.01])
    assert all(torch.equal(value, resumed.weights()[name]) for name, value in straight.weights().items())


def test_weights_beyond_the_limit_are_not_kept_as_the_best(tmp_path: Path, monkeypatch: Any) -> None:
    measured(monkeypatch, lambda step: 0.6)
    for stop_on, best in ((("kl_runaway",), 0), ((), 3)):
        one = toy()
        exam = Exam(one.parts().player, one.scorer, rates=[0.0, 0.75, 0.5])
        run = one.go(tmp_path / str(best), parts={"exam": exam}, health={"stop_on": stop_on, "kl_limit": 0.5}, **KL)
        assert run.final_step == best


def test_a_target_without_a_reference_is_refused_before_any_sample(tmp_path: Path) -> None:
    one = toy()
    with pytest.raises(SettingsError, match="the objective's coefficient is 0"):
        one.go(tmp_path, kl_control={"target": 0.1})
    assert one.records == {}


def test_a_run_that_asks_for_no_target_is_known_by_what_it_was_known_by() -> None:
    assert "kl_control" not in RolloutSettings().model_dump(mode="json")
    assert RolloutSettings(kl_control={"target": 0.1}).model_dump(mode="json")["kl_control"]["target"] == 0.1
