"""The player of one turn: what the engine drew is the rollout, and what it says is judged."""

from __future__ import annotations

import pytest

from rung.base.errors import DataError
from rung.engine.engine import Engine
from rung.engine.settings import EngineSettings
from rung.models.load import Loaded, load
from rung.records.chat.prompting import PromptSettings, prompt_ids
from rung.records.contracts import Item
from rung.records.scripted import Scripted
from rung.search.one_shot import OneShot
from rung.search.settings import PlaySettings
from rung.train.policy_step import rollout_logprobs

ITEMS = [Item("a", "Say a."), Item("b", "Say something longer."), Item("a", "Say a.")]
RAW = PromptSettings(format="raw")


@pytest.fixture(scope="module")
def loaded() -> Loaded:
    return load("tiny:llama", precision="float32")


def player(loaded: Loaded, **settings: object) -> OneShot:
    drawn = PlaySettings.model_validate({"max_new_tokens": 6, **settings})
    return OneShot(Engine(loaded, EngineSettings(num_slots=8)), loaded.tokenizer, RAW, drawn)


@pytest.mark.parametrize("settings", [{}, {"temperature": 0.7}, {"top_k": 5}, {"top_p": 0.5, "temperature": 1.3}])
def test_the_trainer_finds_the_very_log_probabilities_that_were_drawn_with(
    loaded: Loaded, settings: dict[str, float]
) -> None:
    played = player(loaded, **settings).play(ITEMS, [1, 2, 3], [0, 1, 0])
    rollouts = [one.rollout for one in played]
    found = rollout_logprobs(loaded.network, rollouts)
    for rollout, own in zip(rollouts, found, strict=True):
        assert own == pytest.approx(rollout.logprobs, abs=1e-4)
        assert bool(rollout.supports) == bool(settings.keys() & {"top_k", "top_p"})
        assert rollout.temperature == settings.get("temperature", 1.0)


def test_rollout_and_answer_are_of_one_completion(loaded: Loaded) -> None:
    played = player(loaded).play(ITEMS, [1, 2, 3], [7, 8, 7])
    assert [one.rollout.group for one in played] == [7, 8, 7]
    assert [one.trace.item_id for one in played] == ["a", "b", "a"]
    for item, one in zip(ITEMS, played, strict=True):
        assert one.rollout.prompt_ids == prompt_ids(loaded.tokenizer, RAW, item.instruction)
        assert one.trace.completion is not None
        assert one.rollout.token_ids == one.trace.completion.token_ids
        assert all(one.rollout.sampled)
        assert one.rollout.truncated == one.trace.completion.hit_limit
    assert len({one.rollout.id for one in played}) == 3


def test_a_draw_depends_on_its_own_seed_alone(loaded: Loaded) -> None:
    first = player(loaded).play(ITEMS, [1, 2, 3], [0, 1, 0])
    alone = player(loaded).play(ITEMS[1:2], [2], [5])
    assert first[1].rollout.token_ids == alone[0].rollout.token_ids
    other = player(loaded).play(ITEMS[1:2], [9], [5])
    assert other[0].rollout.token_ids != alone[0].rollout.token_ids


def test_greedy_answers_are_for_exams_and_never_for_training(loaded: Loaded) -> None:
    greedy = player(loaded, temperature=0.0)
    texts = [trace.text for trace in greedy.answer(ITEMS, [1, 2, 3])]
    assert texts[0] == texts[2]
    with pytest.raises(DataError, match="greedy"):
        greedy.play(ITEMS, [1, 2, 3], [0, 1, 0])


def test_a_completer_without_log_probabilities_and_uneven_lists_are_refused(loaded: Loaded) -> None:
    silent = OneShot(
        Engine(loaded, EngineSettings(keep_logprobs=False)), loaded.tokenizer, RAW, PlaySettings(max_new_tokens=2)
    )
    with pytest.raises(DataError, match="keeps log-probabilities"):
        silent.play(ITEMS[:1], [1], [0])
    with pytest.raises(DataError, match="3 items and 1 seeds"):
        player(loaded).play(ITEMS, [1], [0, 0, 0])
    with pytest.raises(DataError, match="3 items and 1 groups"):
        player(loaded).play(ITEMS, [1, 2, 3], [0])


def test_answers_come_from_any_completer(loaded: Loaded) -> None:
    script = Scripted(["yes", "no"])
    frame = OneShot(script, loaded.tokenizer, PromptSettings(), PlaySettings())
    assert [trace.text for trace in frame.answer(ITEMS[:2], [1, 2])] == ["yes", "no"]
    assert "\nInstruction" in script.requests[0].sampling.stop
