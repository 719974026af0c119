"""Easy examples first (item 224): the schedule, what the network is shown, resume, ranks, and what is refused."""

from __future__ import annotations

import itertools
import math
from collections import Counter
from pathlib import Path
from typing import Any

import pydantic
import pytest
import torch
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st
from test_train_loop import Heard, go, pairs, same, tiny, weights
from test_train_preferences import go as go_pairs
from test_train_preferences import pairs_of, stacked
from test_train_rewards import go as go_rewards
from test_train_rewards import planted_pairs
from test_train_rewards import tiny as tiny_reward

from rung.base.errors import BudgetSpent, Drift
from rung.base.events import Events
from rung.records.packing import Example, num_steps_per_epoch, step_indices
from rung.train import loop, order
from rung.train.curriculum import CurriculumSettings, competence, easy_to_hard
from rung.train.order import DataOrder
from rung.train.pairs import hold_out_pairs
from rung.train.pretrain_settings import PretrainSettings
from rung.train.settings import PreferenceSettings, RewardSettings, SftSettings

PACING = {"start": 0.2, "until": 0.75}


def sizes_of(num: int, per_step: int, epochs: int) -> list[int]:
    return [min(per_step, num - place) for place in range(0, num, per_step)] * epochs


def test_competence_is_what_its_formula_says() -> None:
    """c0 = 0.2 and T = 0.5 of 40 steps: c(t)^2 = 0.04 + t (1 - 0.04) / 20."""
    pacing = CurriculumSettings(start=0.2, until=0.5)
    found = [competence(step, 40, pacing) for step in (0, 5, 10, 20, 39)]
    assert found == pytest.approx([0.2, 0.28**0.5, 0.52**0.5, 1.0, 1.0])


@given(
    st.integers(1, 60), st.integers(1, 17), st.integers(1, 6), st.floats(0.01, 1), st.floats(0.01, 1), st.integers(0, 9)
)
@hypothesis_settings(max_examples=300, deadline=None)
def test_each_example_is_shown_as_often_as_without_and_none_twice_in_a_step(
    num: int, per_step: int, epochs: int, start: float, until: float, seed: int
) -> None:
    hard = torch.randperm(num, generator=torch.Generator().manual_seed(seed)).tolist()
    sizes, pacing = sizes_of(num, per_step, epochs), CurriculumSettings(start=start, until=until)
    plan = easy_to_hard(hard, sizes, epochs, pacing, seed)
    assert [len(draw.indices) for draw in plan] == sizes
    assert Counter(i for draw in plan for i in draw.indices) == Counter(dict.fromkeys(range(num), epochs))
    assert all(len(set(draw.indices)) == len(draw.indices) for draw in plan)
    assert [draw.share for draw in plan] == sorted(draw.share for draw in plan)


def recorded(monkeypatch: pytest.MonkeyPatch) -> list[list[str]]:
    """The ids of the rows that each step gets, as they come."""
    shown: list[list[str]] = []
    step = loop.train_step

    def watched(network: Any, optimizer: Any, rows: Any, *rest: Any, **keywords: Any) -> Any:
        shown.append([name for row in rows for name in row.ids])
        return step(network, optimizer, rows, *rest, **keywords)

    monkeypatch.setattr(loop, "train_step", watched)
    return shown


def lengths(examples: list[Example]) -> dict[str, int]:
    return {one.id: sum(one.rendered.loss_mask[1:]) for one in examples}


def uneven(num: int = 60) -> list[Example]:
    """Texts that each train another number of tokens."""
    made = []
    for n, one in enumerate(pairs(num)):
        ids = (*one.rendered.token_ids[:-1], *[20 + n] * (n * 7 % num), 2)
        mask = tuple(place >= one.rendered.num_prompt_tokens for place in range(len(ids)))
        made.append(Example(one.id, type(one.rendered)(ids, mask, one.rendered.num_prompt_tokens)))
    return made


@pytest.mark.parametrize("curriculum", [{"kind": "length", **PACING}, None])
def test_what_the_network_is_shown_follows_the_schedule(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, curriculum: Any
) -> None:
    """With the curriculum taken out the same assertion fails."""
    examples, shown, heard = uneven(), recorded(monkeypatch), Heard()
    settings = {"curriculum": curriculum} if curriculum else {}
    result = go(tiny(), examples, tmp_path, epochs=2, events=Events([heard]), **settings)
    counts = lengths(examples)
    ranks = {name: rank for rank, name in enumerate(sorted(counts, key=lambda name: counts[name]))}
    per_step = [[ranks[name] for name in step] for step in shown]
    pacing = CurriculumSettings(**PACING)
    limits = [competence(step, len(shown), pacing) * len(examples) for step in range(len(shown))]
    follows = all(max(step) < limit + 1 for step, limit in zip(per_step, limits, strict=True))
    means = [sum(sum(step) / len(step) for step in part) for part in (per_step[:10], per_step[-10:])]
    assert follows is (means[0] < 0.5 * means[1]) is (curriculum is not None)
    assert Counter(itertools.chain(*shown)) == Counter(dict.fromkeys(counts, 2)), "as often as without"
    assert result.num_targets == 2 * sum(counts.values())
    if curriculum:
        share, median = heard.curve("sft/difficulty/share"), heard.curve("sft/difficulty/median")
        assert [value * 60 for _, value in share] == pytest.approx(limits, abs=1)
        assert len(median) == len(shown) == share[-1][0]
        assert heard.curve("sft/difficulty/low")[0][1] <= median[0][1] <= heard.curve("sft/difficulty/high")[0][1]
    else:
        assert not [e for e in heard.events if "difficulty" in str(e.get("name"))]


@pytest.mark.parametrize("kind", ["length", "rarity", "loss"])
@pytest.mark.parametrize("stop_at", [2, 7])
def test_stopped_and_resumed_is_uninterrupted_to_the_bit(tmp_path: Path, kind: str, stop_at: int) -> None:
    examples = uneven(24)
    settings = {"epochs": 3, "eval_fraction": 0.2, "eval_interval": 3, "curriculum": kind, "checkpoint_interval": 4}
    straight, resumed = tiny(dropout=0.3), tiny(dropout=0.3)
    whole = go(straight, examples, tmp_path / "a", **settings)
    steps = itertools.count(1)

    def stop(num_tokens: int) -> None:
        if (tmp_path / "b").exists() and next(steps) == stop_at:
            raise BudgetSpent("enough")

    with pytest.raises(BudgetSpent):
        go(tiny(dropout=0.3), examples, tmp_path / "b", on_step=stop, **settings)
    rest = go(resumed, examples, tmp_path / "b", **settings)
    assert same(weights(straight), weights(resumed))
    assert rest.losses == whole.losses
    other = tiny(dropout=0.3)
    go(other, examples, tmp_path / "c", **{**settings, "curriculum": ""})
    assert not same(weights(straight), weights(other)), "another order gives other weights"


def test_a_measured_difficulty_is_measured_once_and_is_the_loss(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    examples, network, read = uneven(20), tiny(), []
    shown = recorded(monkeypatch)
    go(network, examples, tmp_path, on_step=read.append, curriculum={"kind": "loss", "start": 0.05})
    losses = order.read_json(tmp_path / "difficulties.json")["losses"]
    fresh = tiny()
    alone = [
        loop.evaluate(fresh, loop.pack([one], 99), loop.objective_of(SftSettings(), "targets")) for one in examples
    ]
    assert losses == pytest.approx(alone, abs=1e-5)
    first = sorted(range(20), key=lambda index: losses[index])[: len(shown[0])]
    assert set(shown[0]) == {examples[index].id for index in first}
    assert sum(read) == 3 * sum(len(one.rendered.token_ids) for one in examples), "measured once, then two epochs"
    monkeypatch.setattr(order, "text_losses", None)
    go(tiny(), examples, tmp_path, curriculum={"kind": "loss", "start": 0.05})
    with pytest.raises(TypeError):
        go(tiny(), examples[:10], tmp_path, curriculum="loss")


def test_pairs_come_in_the_same_way_and_their_margins_begin_at_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_pairs, shown = pairs_of(30), recorded(monkeypatch)
    result = go_pairs(
        stacked(tmp_path / "a"), given_pairs, tmp_path / "s", curriculum={"kind": "length", "until": 1.0}, epochs=2,
        sequences_per_step=3, eval_fraction=0.1,
    )  # fmt: skip
    assert result.training.first_loss == pytest.approx(math.log(2), abs=1e-7)
    sizes = {p.id: sum(p.chosen.rendered.loss_mask[1:]) + sum(p.rejected.rendered.loss_mask[1:]) for p in given_pairs}
    own = [[sizes[name.rpartition(":")[0] or name] for name in step] for step in shown]
    assert sum(own[0]) / len(own[0]) < sum(own[-1]) / len(own[-1])
    assert set(Counter(itertools.chain(*shown)).values()) == {2}


def test_a_pair_that_is_ranked_right_already_is_easy(tmp_path: Path) -> None:
    network, given_pairs = stacked(tmp_path / "a"), pairs_of(12)
    go_pairs(network, given_pairs, tmp_path / "s", curriculum="loss", epochs=1, eval_fraction=0.1)
    found = order.read_json(tmp_path / "s" / "difficulties.json")["losses"]
    fresh, objective = stacked(tmp_path / "b"), loop.objective_of(SftSettings(), "targets")
    training, _ = hold_out_pairs(given_pairs, 0.1, PreferenceSettings().seed)
    sides = [[loop.evaluate(fresh, loop.pack([x], 99), objective) for x in (p.chosen, p.rejected)] for p in training]
    assert found == pytest.approx([chosen - rejected for chosen, rejected in sides], abs=1e-5)


@pytest.mark.parametrize("frozen", [True, False])
def test_a_frozen_bodys_answers_are_as_long_as_their_texts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, frozen: bool
) -> None:
    """Kept states are one token each: the lengths are those of what they were made from."""
    seen: list[Any] = []
    real = order.easy_to_hard
    monkeypatch.setattr(order, "easy_to_hard", lambda hard, *rest: seen.append(hard) or real(hard, *rest))
    go_rewards(tiny_reward(1, frozen=frozen), planted_pairs(24), tmp_path, curriculum="length", epochs=2)
    assert len(set(seen[0])) > 1
    assert min(seen[0]) > 2


def test_without_a_curriculum_the_order_is_the_old_one_to_the_number() -> None:
    settings = SftSettings(sequences_per_step=5, epochs=3, seed=4)
    plain = DataOrder(23, settings)
    assert plain.num_steps == 3 * num_steps_per_epoch(23, 5)
    assert [plain(step) for step in range(15)] == [step_indices(23, 5, 4, step) for step in range(15)]
    assert "curriculum" not in settings.model_dump(), "what a recipe does not say is no part of an identity"


def test_every_rank_has_the_same_plan_and_every_seed_its_own() -> None:
    def plan(seed: int) -> list[tuple[int, ...]]:
        settings = SftSettings(sequences_per_step=4, epochs=2, seed=seed, curriculum="length")
        made = DataOrder(40, settings, [float(i) for i in range(40)])
        return [made(step) for step in range(made.num_steps)]

    assert plan(1) == plan(1) != plan(2)


def test_another_curriculum_is_another_run(tmp_path: Path) -> None:
    go(tiny(), pairs(8), tmp_path, epochs=1, curriculum="length")
    with pytest.raises(Drift):
        go(tiny(), pairs(8), tmp_path, epochs=1)


@pytest.mark.parametrize(
    ("kind", "values", "message"),
    [
        (SftSettings, {"curriculum": "lenght"}, "did you mean 'length'"),
        (SftSettings, {"curriculum": {"kind": "length", "untill": 1}}, r"curriculum.length.*unknown key 'untill'"),
        (SftSettings, {"curriculum": {"kind": "rarity", "start": 0}}, r"curriculum.rarity.start"),
        (SftSettings, {"curriculum": {"kind": "rarity", "until": 1.5}}, r"curriculum.rarity.until"),
        (SftSettings, {"curriculum": "loss", "devices": {"context": 2}}, "not cut over a ring"),
        (RewardSettings, {"curriculum": "loss"}, "a head knows nothing"),
        (PretrainSettings, {"curriculum": "length"}, "windows hold what lies there"),
    ],
)
def test_what_cannot_be_is_refused_before_any_work(kind: Any, values: dict[str, Any], message: str) -> None:
    with pytest.raises(pydantic.ValidationError, match=message):
        kind.model_validate(values)
    assert PreferenceSettings(curriculum="loss").curriculum == "loss"
