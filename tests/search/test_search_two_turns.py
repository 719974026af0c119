"""The player of scripted conversations, on a real network: one rollout of two sampled segments, one reward."""

from __future__ import annotations

from collections import Counter
from itertools import pairwise

import pytest
import torch

from rung.base.errors import DataError
from rung.base.events import Events
from rung.base.settings import validate
from rung.engine.engine import Engine
from rung.models.load import load
from rung.records.contracts import Score
from rung.scoring.branch_script import BranchScript
from rung.scoring.judged_pairs import pair_item
from rung.scoring.mixing import MixSettings, build_mix
from rung.scoring.reward import Lent
from rung.search.two_turns import TwoTurns
from rung.train.adapters import attach_adapter, prepare, save_adapter, trainable
from rung.train.objectives.grpo import Grpo
from rung.train.optim.adamw import AdamW
from rung.train.policy_step import Sample, policy_step, rollout_logprobs
from rung.train.rollout_loop import train_on_rollouts
from rung.train.rollout_parts import Parts
from rung.train.rollout_settings import RolloutSettings
from rung.train.settings import AdapterSettings

ITEMS = [pair_item(f"p{n}", f"What is {n} + 1?", (str(n + 1), str(n + 2)), 1) for n in range(3)]


class Loose(BranchScript):
    """Goes on whatever turn one was, as an untrained network cannot follow the format."""

    def goes_on(self, turn, text):
        return True


@pytest.fixture
def made():
    """A tiny network with an adapter that is trained; its context holds the judge's wording in bytes."""
    loaded = load("tiny:llama", precision="float32", strict=False, clean=False)
    prepare(loaded.network, AdapterSettings(rank=4), 0)
    torch.manual_seed(0)
    with torch.no_grad():
        for name, parameter in trainable(loaded.network).items():
            if "lora_B" in name:
                parameter.normal_(0, 0.3)
    object.__setattr__(loaded.network.shape, "max_context", 4096)
    return loaded


def player(loaded, script=None, **settings):
    values = {"max_first_tokens": 6, "max_second_tokens": 5, **settings}
    return TwoTurns(Engine(loaded), loaded.tokenizer, script or Loose(), validate(TwoTurns.Settings, values, "play"))


def test_two_sampled_segments_with_words_between_that_nobody_sampled(made):
    played = player(made).play(ITEMS, [1, 2, 3], [0, 1, 2])
    for one, item in zip(played, ITEMS, strict=True):
        rollout = one.rollout
        assert sum(a != b for a, b in pairwise(rollout.sampled)) == 2  # drawn, inserted, drawn
        assert 0 < rollout.num_sampled <= 11
        assert (one.trace.item_id, len(one.trace.turns)) == (item.id, 2)
        words = [t for t, s in zip(rollout.token_ids, rollout.sampled, strict=True) if not s]
        assert "Read both again" in made.tokenizer.decode(words)
    assert [one.rollout.group for one in played] == [0, 1, 2]


def test_the_trainer_gives_both_segments_the_samplers_log_probabilities(made):
    for settings in ({}, {"temperature": 0.7, "top_p": 0.9}):
        rollouts = [one.rollout for one in player(made, **settings).play(ITEMS, [1, 2, 3], [0, 1, 2])]
        assert bool(rollouts[0].supports) == bool(settings)
        for rollout, values in zip(rollouts, rollout_logprobs(made.network, rollouts), strict=True):
            assert values == pytest.approx(rollout.logprobs, abs=1e-4)


def test_an_answer_depends_on_its_own_item_and_seed_alone(made):
    together = player(made).play(ITEMS, [1, 2, 3], [0, 1, 2])
    alone = player(made).play(ITEMS[1:2], [2], [1])
    assert alone == together[1:2]
    assert player(made).play(ITEMS[1:2], [9], [1])[0].rollout.token_ids != alone[0].rollout.token_ids
    answers = player(made, temperature=0.0).answer(ITEMS, [1, 2, 3])
    assert answers == player(made, temperature=0.0).answer(ITEMS, [7, 8, 9])
    with pytest.raises(DataError, match="greedy"):
        player(made, temperature=0.0).play(ITEMS, [1, 2, 3], [0, 1, 2])
    with pytest.raises(DataError, match="3 items and 1 groups"):
        player(made).play(ITEMS, [1, 2, 3], [0])
    with pytest.raises(DataError, match="3 items and 1 seeds"):
        player(made).answer(ITEMS, [1])


def test_a_malformed_turn_one_ends_the_rollout(made):
    (one,) = player(made, BranchScript()).play(ITEMS[:1], [1], [0])
    assert len(one.trace.turns) == 1
    assert all(one.rollout.sampled)


def test_both_segments_are_trained_and_no_inserted_word_is(made):
    rollouts = [one.rollout for one in player(made).play(ITEMS, [1, 2, 3], [0, 1, 2])]
    whole = updated(made, rollouts, lambda place, cut, sampled: (1.0, True))
    assert whole.num_trained == sum(rollout.num_sampled for rollout in rollouts)
    shouting = updated(made, rollouts, lambda place, cut, sampled: (1.0 if sampled else 1e6, True))
    assert shouting.grad_norm == whole.grad_norm  # what stands at inserted words reaches nothing
    first = updated(made, rollouts, lambda place, cut, sampled: (1.0, place < cut))
    second = updated(made, rollouts, lambda place, cut, sampled: (1.0, place >= cut))
    assert first.num_trained + second.num_trained == whole.num_trained
    assert 0 < first.grad_norm != whole.grad_norm
    assert 0 < second.grad_norm != whole.grad_norm


def updated(made, rollouts, credit):
    """An update at learning rate 0; `credit(place, end of segment one, sampled)` is (advantage, whether it counts)."""
    samples = []
    for rollout in rollouts:
        cut = rollout.sampled.index(False)
        given = [credit(place, cut, sampled) for place, sampled in enumerate(rollout.sampled)]
        advantages, counts = zip(*given, strict=True)
        samples.append(Sample(rollout, advantages, counts, counts))
    optimizer = AdamW(AdamW.Settings()).build(trainable(made.network))
    objective = Grpo(Grpo.Settings(kl_coefficient=0))
    return policy_step(made.network, optimizer, samples, objective, learning_rate=0.0, clip=0.0)


def test_item_292_a_saved_adapter_judges_as_before(made, tmp_path):
    greedy = player(made, temperature=0.0)
    before = greedy.answer(ITEMS, [0, 0, 0])
    save_adapter(made.network, tmp_path)
    other = load("tiny:llama", precision="float32", strict=False, clean=False)
    object.__setattr__(other.network.shape, "max_context", 4096)
    untrained = player(other, temperature=0.0).answer(ITEMS, [0, 0, 0])
    assert untrained != before
    attach_adapter(other.network, tmp_path)
    assert player(other, temperature=0.0).answer(ITEMS, [0, 0, 0]) == before


class Counted:
    """Half of what can be drawn is right, so that an untrained network has something to learn from."""

    def score(self, items, traces):
        return [Score(float(len(trace.turns[0].encode()) % 2)) for trace in traces]


def test_the_loop_of_policy_optimisation_trains_the_judge_by_outcome(made, tmp_path):
    """The very loop, player and reward of a run; malformed traces earn least, and all turns share the reward."""
    settings = MixSettings.model_validate({"parts": {"ranking": {"reward": "ranking"}}, "combine": "sum"})
    mix = build_mix(settings, Lent())
    stored = []
    parts = Parts(
        player=player(made, script=Loose()),
        rewards=mix,
        accuracy=Counted(),
        store=lambda step, records: stored.extend(records),
        rest=lambda: None,
    )
    own = RolloutSettings(num_steps=1, prompts_per_step=2, group_size=4, refill=None, keep="last")
    run = train_on_rollouts(
        made.network, ITEMS, parts, own, events=Events(), scratch=tmp_path, on_step=lambda num_tokens: None
    )
    assert run.state.step == 1
    assert len(stored) == 8
    assert Counter(record.reward for record in stored) == {-1.0: 8}  # nothing it says is well formed
    assert all(record.sampled.count(False) > 10 for record in stored)
