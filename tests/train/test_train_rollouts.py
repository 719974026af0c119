"""The loop of policy optimisation on a tiny model: learning, resume, refills, stops, fresh weights, references."""

from __future__ import annotations

import itertools
import math
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from rollout_toys import ITEMS, Even, Exam, toy

from rung.base.errors import BudgetSpent, DataError, Drift, ModelError, SettingsError
from rung.base.settings import validate
from rung.records.contracts import Score
from rung.train import rollout_update
from rung.train.adapters import as_begun, stack_adapter
from rung.train.policy_step import rollout_logprobs
from rung.train.reference import choose_reference
from rung.train.rollout_batch import prompt_places
from rung.train.rollout_settings import RolloutSettings
from rung.train.rollout_update import update_order
from rung.train.settings import StackSettings

KL = {"objective": {"kind": "grpo", "kl_coefficient": 0.05}}


ILL = {"window": 2, "patience": 2, "stop_after": 3, "stop_on": ("dead_groups",)}


class Never:
    """A verifier that nothing satisfies."""

    def score(self, items: Any, traces: Any) -> list[Score]:
        return [Score(0.0) for _ in items]


class Heard:
    """A sink that keeps everything."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def handle(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def close(self) -> None: ...

    def curve(self, name: str) -> list[float]:
        return [e["value"] for e in self.events if e["kind"] == "metric" and e["name"] == name]

    def said(self) -> list[str]:
        return [e["message"] for e in self.events if e["kind"] == "log"]


def same(first: dict[str, torch.Tensor], second: dict[str, torch.Tensor]) -> bool:
    return first.keys() == second.keys() and all(torch.equal(first[k], second[k]) for k in first)


def test_the_toy_is_learned_and_stays_near_where_it_was(tmp_path: Path) -> None:
    one = toy()
    run = one.go(tmp_path, num_steps=45, eval_interval=45, group_size=8, prompts_per_step=8, learning_rate=5e-3, **KL)
    rates = [sum(r.accuracy or 0.0 for r in records) / len(records) for records in one.records.values()]
    assert rates[0] < 0.75
    assert rates[-1] >= 0.9
    assert run.state.history[-1].kl is not None
    # to say always one and the same token would be this far from a model that knows nothing
    assert max(health.kl or 0.0 for health in run.state.history) < 0.5 * math.log(320)
    assert run.reference == "frozen copy"


@pytest.mark.parametrize("stop_at", [1, 3, 4])
def test_stopped_after_any_step_and_resumed_is_uninterrupted_to_the_bit(tmp_path: Path, stop_at: int) -> None:
    straight, count = toy(), itertools.count(1)
    whole = straight.go(tmp_path / "a", num_updates=2, num_passes=2, **KL)

    def stop(tokens: int) -> None:
        if next(count) == stop_at:
            raise BudgetSpent("enough")

    broken, resumed = toy(), toy()
    with pytest.raises(BudgetSpent):
        broken.go(tmp_path / "b", on_step=stop, num_updates=2, num_passes=2, **KL)
    rest = resumed.go(tmp_path / "b", num_updates=2, num_passes=2, **KL)
    assert rest.resumed_from == stop_at
    assert same(straight.weights(), resumed.weights())
    assert {**broken.records, **resumed.records} == straight.records
    assert (rest.state.history, rest.state.exams) == (whole.state.history, whole.state.exams)
    assert toy().go(tmp_path / "b", num_updates=2, num_passes=2, **KL).resumed_from == 6, "a finished run does nothing"


def test_what_ends_within_an_update_is_begun_again(tmp_path: Path) -> None:
    straight, count = toy(), itertools.count(1)
    straight.go(tmp_path / "a", num_updates=2)

    def poll() -> None:
        if next(count) == 8:  # in the second update of the fourth step, after the checkpoint of the second
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        toy().go(tmp_path / "b", num_updates=2, parts={"poll": poll})
    resumed = toy()
    assert resumed.go(tmp_path / "b", num_updates=2).resumed_from == 2
    assert same(straight.weights(), resumed.weights())


def test_killed_without_warning_it_goes_on_from_the_last_checkpoint(tmp_path: Path) -> None:
    script = f"""
import sys, time
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from rollout_toys import toy
toy("lora").go(Path(sys.argv[1]), on_step=lambda n: (print("step", flush=True), time.sleep(0.1)), num_steps=8)
"""
    process = subprocess.Popen([sys.executable, "-c", script, str(tmp_path / "k")], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    for _ in range(5):
        assert process.stdout.readline() == "step\n"
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    resumed, straight = toy("lora"), toy("lora")
    rest = resumed.go(tmp_path / "k", num_steps=8)
    straight.go(tmp_path / "s", num_steps=8)
    assert rest.resumed_from in (4, 6)
    assert same(resumed.weights(), straight.weights())
    assert resumed.records == {step: straight.records[step] for step in resumed.records}
    assert straight.run is not None
    assert rest.state.history == straight.run.state.history


def test_another_runs_checkpoint_is_refused(tmp_path: Path) -> None:
    toy().go(tmp_path, num_steps=1)
    with pytest.raises(Drift):
        toy().go(tmp_path, num_steps=1, learning_rate=1e-3)


def test_every_prompt_comes_once_an_epoch_in_an_order_of_its_own() -> None:
    drawn = prompt_places(7, 0, 21, seed=3)
    epochs = [drawn[n : n + 7] for n in (0, 7, 14)]
    assert all(sorted(epoch) == list(range(7)) for epoch in epochs)
    assert epochs[0] != epochs[1]
    assert prompt_places(7, 5, 6, seed=3) == drawn[5:11]
    assert prompt_places(7, 0, 7, seed=4) != epochs[0]


def test_the_sampler_reads_the_weights_of_the_last_update(tmp_path: Path) -> None:
    """Specification item 323: a cache of old weights, or a copy that nobody syncs, would show here."""
    fresh, stale = toy(), toy(frozen_sampler=True)
    fresh.go(tmp_path / "a")
    assert all((health.mismatch_max or 0.0) < 1e-4 for health in fresh.run.state.history)  # type: ignore[union-attr]
    stale.go(tmp_path / "b", keep="last")
    found = [health.mismatch_max or 0.0 for health in stale.run.state.history]  # type: ignore[union-attr]
    assert found[0] < 1e-4
    assert found[-1] > 1e-2


def test_log_probabilities_of_the_same_answers_change_with_an_update(tmp_path: Path) -> None:
    one = toy()
    player = one.parts().player
    before = [played.rollout for played in player.play(ITEMS, range(12), range(12))]
    one.go(tmp_path, num_steps=1, keep="last")
    after = [played.rollout for played in player.play(ITEMS, range(12), range(12))]
    assert [r.logprobs for r in before] != [r.logprobs for r in after]
    again = toy()
    again.loaded.network.load_state_dict(one.loaded.network.state_dict())
    fresh = [played.rollout for played in again.parts().player.play(ITEMS, range(12), range(12))]
    assert [r.logprobs for r in fresh] == [r.logprobs for r in after]


def test_refills_keep_mixed_groups_and_count_what_they_threw_away(tmp_path: Path) -> None:
    one = toy()
    run = one.go(tmp_path, num_steps=4, group_size=2)
    counts = Counter(record.outcome for records in one.records.values() for record in records)
    assert run.state.discarded
    assert counts["trained"] == 2 * 4 * 4
    assert sum(n for name, n in counts.items() if name != "trained") == 2 * sum(run.state.discarded.values())
    for records in one.records.values():
        for group in {r.group for r in records if r.outcome == "trained"}:
            assert len({r.accuracy for r in records if r.group == group}) == 2
    assert run.state.num_drawn == sum(counts.values()) / 2
    plain = toy()
    plain.go(tmp_path / "p", num_steps=4, group_size=2, refill=None)
    assert all(len(records) == 8 for records in plain.records.values())
    assert {r.outcome for records in plain.records.values() for r in records} == {"trained"}


def test_a_task_that_teaches_nothing_moves_nothing_and_ends_by_name(tmp_path: Path) -> None:
    heard, one = Heard(), toy(scorer=Never())
    before = one.weights()
    run = one.go(tmp_path, sinks=[heard], num_steps=30, refill={"max_rounds": 1}, health=ILL)
    assert run.state.stopped.startswith("dead_groups since step")
    assert run.state.step < 30
    assert same(one.weights(), before)
    assert run.state.num_updates == 0
    assert sum("no group of 4 teaches anything" in text for text in heard.said()) == run.state.step
    assert sum(text.startswith("dead_groups") for text in heard.said()) == 1, "an alarm is told once"
    again = toy(scorer=Never())
    assert again.go(tmp_path, num_steps=30, refill={"max_rounds": 1}, health=ILL).state.stopped == run.state.stopped
    assert again.records == {}


def test_the_best_weights_on_held_out_items_come_back(tmp_path: Path) -> None:
    one = toy()
    seen: dict[int, dict[str, torch.Tensor]] = {}
    exam = Exam(one.parts().player, one.scorer, rates=[0.0, 0.75, 0.5])  # type: ignore[arg-type]
    sit = exam.sit
    exam.sit = lambda step: (seen.update({step: one.weights()}), sit(step))[1]  # type: ignore[method-assign]
    run = one.go(tmp_path, parts={"exam": exam})
    assert run.state.exams == ((0, 0.0), (3, 0.75), (6, 0.5))
    assert run.final_step == 3
    assert same(one.weights(), seen[3])
    assert not same(seen[3], seen[6])
    last = toy()
    assert last.go(tmp_path / "l", keep="last").final_step == 6


class Suspicious:
    """A watch that has enough at its second look."""

    def __init__(self) -> None:
        self.looks: list[int] = []

    def observe(self, step: int, sat: Any, events: Any) -> float:
        self.looks.append(step)
        return 0.5

    def reasons(self) -> tuple[str, ...]:
        return ("the gap is too wide",) if len(self.looks) > 1 else ()

    def state(self) -> Any:
        return self.looks

    def restore(self, state: Any) -> None:
        self.looks = list(state)


def test_the_hidden_verifier_ends_a_run_and_is_remembered_over_a_resume(tmp_path: Path) -> None:
    run = toy().go(tmp_path / "a", parts={"watch": Suspicious()})
    assert (run.state.stopped, run.state.step) == ("the gap is too wide", 3)

    def stop(tokens: int) -> None:
        raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        toy().go(tmp_path / "b", on_step=stop, parts={"watch": Suspicious()})
    watch = Suspicious()
    assert toy().go(tmp_path / "b", parts={"watch": watch}).state.step == 3
    assert watch.looks == [0, 3]


def test_the_reference_is_the_cheapest_one_that_there_is() -> None:
    whole, adapted = toy("none").loaded.network, toy("lora").loaded.network
    size = sum(p.nbytes for p in whole.parameters())
    assert choose_reference(adapted, 0).how == "adapter off"
    assert choose_reference(adapted, 0).num_bytes == 0
    assert choose_reference(whole, 2 * size).how == "frozen copy"
    assert choose_reference(whole, size).how == "frozen copy in bfloat16"
    assert choose_reference(whole, size).num_bytes == size // 2
    with pytest.raises(ModelError, match="frozen copy of the policy takes"):
        choose_reference(whole, size // 2)


def test_kl_is_zero_at_the_start_and_the_reference_does_not_move(tmp_path: Path) -> None:
    for kind, how in (("lora", "adapter off"), ("none", "frozen copy")):
        one = toy(kind)
        run = one.go(tmp_path / kind, learning_rate=2e-2, **KL)
        assert run.reference == how
        kls = [health.kl for health in run.state.history]
        assert kls[0] == pytest.approx(0.0, abs=1e-6)
        assert (kls[-1] or 0.0) > 1e-4
    assert toy().go(tmp_path / "no", num_steps=1).reference.startswith("none")


def test_of_two_adapters_the_reference_has_the_lower_one(tmp_path: Path) -> None:
    one = toy("lora")
    one.go(tmp_path / "a", keep="last", learning_rate=2e-2)
    play = one.parts().player.play
    lower = [played.rollout for played in play(ITEMS, range(12), range(12))]
    stack_adapter(one.loaded.network, StackSettings(rank=4), seed=1)
    stacked = toy(adapter=False)
    assert [p.rollout for p in stacked.parts().player.play(ITEMS, range(12), range(12))] != lower
    run = one.go(tmp_path / "b", learning_rate=2e-2, keep="last", **KL)
    assert run.state.history[0].kl == pytest.approx(0.0, abs=1e-6)
    assert (run.state.history[-1].kl or 0.0) > 1e-4
    with as_begun(one.loaded.network):
        found = [played.rollout for played in play(ITEMS, range(12), range(12))]
    assert [r.token_ids for r in found] == [r.token_ids for r in lower]
    assert [p.rollout.token_ids for p in play(ITEMS, range(12), range(12))] != [r.token_ids for r in lower]


def test_updates_share_a_batch_out_by_groups() -> None:
    tokens = [SimpleNamespace(counts=(True,))] * 20
    batch: Any = SimpleNamespace(kept=[0] * 5, step=3, tokens=tokens)
    settings = RolloutSettings(group_size=4, prompts_per_step=5, num_updates=2, num_passes=3)
    order = update_order(batch, settings)
    assert len(order) == 6
    for again in range(3):
        both = order[2 * again] + order[2 * again + 1]
        assert sorted(both) == list(range(20))
        assert all(place // 4 == both[n // 4 * 4] // 4 for n, place in enumerate(both))
    assert order[0] != order[2]
    assert update_order(batch, settings) == order
    none: Any = SimpleNamespace(kept=[0], step=1, tokens=[SimpleNamespace(counts=(False,))] * 4)
    assert update_order(none, settings) == []


@pytest.mark.parametrize(("changes", "share"), [({}, 0.0), ({"num_updates": 2}, 0.5), ({"num_passes": 2}, 1.0)])
def test_old_log_probabilities_are_computed_only_where_the_weights_moved_before(
    tmp_path: Path, monkeypatch: Any, changes: Any, share: float
) -> None:
    asked: list[int] = []

    def counted(network: Any, rollouts: Any, **how: Any) -> Any:
        asked.append(len(rollouts))
        return rollout_logprobs(network, rollouts, **how)

    monkeypatch.setattr(rollout_update, "rollout_logprobs", counted)
    run = toy().go(tmp_path, num_steps=2, importance={"mode": "weigh"}, **changes)
    assert sum(asked) == share * 2 * 4 * 4
    assert run.state.history[0].ratio_max > 1.0 if share else run.state.history[0].ratio_max == 1.0


def test_a_step_whose_groups_are_all_alike_is_read_by_nobody(tmp_path: Path) -> None:
    one = toy(scorer=Never())
    before = one.weights()
    run = one.go(tmp_path, num_steps=2, refill=None)
    assert (run.state.num_updates, run.state.num_tokens, run.state.history[0].entropy) == (0, 0, None)
    assert same(one.weights(), before)


@pytest.mark.parametrize(("way", "outcome"), [("mask", "masked"), ("wrong", "trained"), ("as_is", "trained")])
def test_answers_cut_at_the_limit_are_never_taken_for_whole_ones_unasked(
    tmp_path: Path, way: str, outcome: str
) -> None:
    one = toy()
    one.go(tmp_path, num_steps=1, truncated=way, refill=None)
    cut = [record for record in one.records[1] if record.truncated]
    assert cut
    assert {record.outcome for record in cut} == {outcome}
    if way == "wrong":
        assert {record.accuracy for record in cut} == {0.0}
    if way == "mask":
        assert {record.advantage for record in cut} == {None}


def test_records_hold_what_was_sampled_and_how_it_was_judged(tmp_path: Path) -> None:
    heard, one = Heard(), toy()
    one.go(tmp_path, sinks=[heard], num_steps=2)
    records = [record for step in (1, 2) for record in one.records[step]]
    assert len({record.id for record in records}) == len(records)
    for record in records:
        assert len(record.token_ids) == len(record.logprobs) == len(record.sampled) > 0
        assert record.entropy is not None
        assert (record.advantage is not None) == (record.outcome == "trained")
    trained = [record for record in records if record.outcome == "trained"]
    assert {record.reward for record in trained} == {0.0, 1.0}
    for record in trained:
        assert (record.advantage or 0.0) > 0 if record.accuracy else (record.advantage or 0.0) < 0
    assert len(heard.curve("rl/entropy")) == len(heard.curve("rl/accuracy")) == 2
    assert heard.curve("rl/accuracy")[0] == pytest.approx(
        sum(r.accuracy or 0 for r in one.records[1]) / len(one.records[1])
    )


def test_an_abstention_is_no_wrong_answer(tmp_path: Path) -> None:
    one = toy(scorer=Even(abstains=[item.id for item in ITEMS[:3]]))
    one.go(tmp_path, num_steps=3)
    silent = [r for records in one.records.values() for r in records if r.item_id in {"i0", "i1", "i2"}]
    assert silent
    assert {r.outcome for r in silent} == {"abstained"}
    assert {r.accuracy for r in silent} == {None}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"objective": "cross_entropy"}, "does not read rollouts"),
        ({"credit": "process"}, "rewards of steps"),
    ],
)
def test_parts_that_cannot_be_used_are_refused_before_any_sample(tmp_path: Path, values: Any, words: str) -> None:
    one = toy()
    with pytest.raises(SettingsError, match=words):
        one.go(tmp_path, **values)
    assert one.records == {}


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"credit": "group_mead"}, "group_mead"),
        ({"num_updates": 9, "prompts_per_step": 8}, "cannot be split into 9"),
        ({"group_size": 1}, "group_size"),
        ({"objectiv": "dapo"}, "did you mean 'objective'|objectiv"),
    ],
)
def test_impossible_settings_are_refused(values: Any, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        validate(RolloutSettings, values, "training")


def test_a_run_needs_something_to_train_and_to_train_on(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no parameter is trained"):
        toy(adapter=False).go(tmp_path)
    with pytest.raises(DataError, match="no prompt"):
        toy().go(tmp_path, items=[])
