"""Words, features, prompts and figures of stories: everything but the strategies, without a model."""

from __future__ import annotations

from itertools import islice
from pathlib import Path

import pytest
import yaml

from rung.base.errors import DataError
from rung.datagen.stories.features import load_features
from rung.datagen.stories.figures import distinct, quality, story_figures
from rung.datagen.stories.inflect import occurring
from rung.datagen.stories.judging import validators
from rung.datagen.stories.making import Monitor, WatchSettings
from rung.datagen.stories.prompts import load_prompts
from rung.datagen.stories.vocabulary import WORDS, Word, load_vocabulary, syllables, triples
from rung.records.chat.asking import Asking
from rung.records.chat.prompting import PromptSettings
from rung.records.contracts import Sampling
from rung.records.types import Message
from story_script import KNOWN, planner, story, told


def test_item_184_the_shipped_list_has_1500_words_and_more_within_its_limits() -> None:
    vocabulary = load_vocabulary()
    assert len(vocabulary.words) >= 1500
    assert len(vocabulary.of("noun")) >= 750
    assert min(len(vocabulary.of(kind, 1)) for kind in ("noun", "verb", "adjective")) > 50
    assert all(len(word.text) <= 8 and syllables(word.text) <= 3 for word in vocabulary.words)


@pytest.mark.parametrize(
    ("text", "fault"),
    [("elephants", "too_long"), ("gun", "blocked"), ("can't", "not_a_word"), ("academia", "too_many_syllables"),
     ("dog", "known"), ("sloth", "")],
)  # fmt: skip
def test_item_184_a_word_is_rejected_with_its_reason(text: str, fault: str) -> None:
    assert load_vocabulary().fault(Word(text, "noun", 1)) == fault


def test_a_list_with_a_bad_word_names_it(tmp_path: Path) -> None:
    values = yaml.safe_load(WORDS.read_text())
    values["noun"][1] += " gun"
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(DataError, match="'gun' may not stand in the list: blocked"):
        load_vocabulary(path)


def test_words_are_dealt_evenly_and_no_triple_comes_twice() -> None:
    vocabulary = load_vocabulary()
    nouns = len(vocabulary.of("noun", 1))
    drawn = list(islice(triples(vocabulary, 3, 1), 2 * nouns))
    counts: dict[str, int] = {}
    for noun, _, _ in drawn:
        counts[noun.text] = counts.get(noun.text, 0) + 1
    assert set(counts.values()) == {2}
    assert len(counts) == nouns


def test_item_185_a_thousand_prompts_have_no_repeated_triple_and_no_conflicting_features() -> None:
    prompts = list(islice(planner(max_features=3).prompts(5), 1000))
    assert len({prompt.words for prompt in prompts}) == 1000
    assert all(KNOWN.features.conflict(prompt.features) is None for prompt in prompts)
    assert KNOWN.features.conflict(("moral", "bad_ending")) == ("moral", "bad_ending")
    assert {len(prompt.features) for prompt in prompts} == {1, 2, 3}


def test_a_tiny_list_runs_out_of_triples_and_says_so(tmp_path: Path) -> None:
    values = {**yaml.safe_load(WORDS.read_text()), "noun": {1: "dog"}, "verb": {1: "run"}, "adjective": {1: "big red"}}
    path = tmp_path / "own.yaml"
    path.write_text(yaml.safe_dump(values))
    dealt = triples(load_vocabulary(path), 1)
    assert {next(dealt)[2].text, next(dealt)[2].text} == {"big", "red"}
    with pytest.raises(DataError, match="no new triple"):
        next(dealt)


def test_the_shards_of_a_plan_are_the_plan() -> None:
    whole = [prompt.id for prompt in islice(planner().prompts(7), 12)]
    shards = [[prompt.id for prompt in islice(planner().prompts(7, first, 3), 4)] for first in range(3)]
    assert [shards[n % 3][n // 3] for n in range(12)] == whole


def test_inflections_count_and_parts_of_words_do_not() -> None:
    irregular = KNOWN.vocabulary.irregular
    text = "The mice ran happily while she was hopping and cried; the boxes broke."
    assert occurring(["mouse", "run", "happy", "hop", "cry", "box", "break"], text, irregular) == {
        "mouse", "run", "happy", "hop", "cry", "box", "break",
    }  # fmt: skip
    assert occurring(["cat", "car", "ant"], "They catch giants on a carpet", irregular) == set()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"templates": {"a": "Use {words}."}}, r"'\{features\}' is missing"),
        ({"templates": {"a": "Use {words} with {features} for {reader}."}}, r"unknown placeholder '\{reader\}'"),
        ({"templates": {"a": "Use {words and {features}."}}, "no plain placeholder|braces do not match"),
        ({"shots": [{"words": ["dog"], "features": ["dragons"], "text": "x"}]}, "names a feature that is not there"),
    ],
)
def test_templates_are_checked_when_they_are_read(tmp_path: Path, change: dict[str, object], message: str) -> None:
    path = tmp_path / "prompts.yaml"
    path.write_text(yaml.safe_dump({"templates": {"a": "{words} {features}"}, "shots": [], **change}))
    with pytest.raises(DataError, match=message):
        load_prompts(load_features(), path)


def test_the_shots_shipped_pass_every_validator_with_what_they_are_asked_for() -> None:
    _, shots = load_prompts(load_features())
    for shot in shots:
        checks = validators(
            ["chatter", "length", "ending", "loops", "simplicity", "known_words", "required_words", "features"],
            KNOWN,
            "",
        )
        for name, check in checks:
            found = check.apply([story(shot.text, words=shot.words, features=shot.features)])
            assert not found.dropped, (name, found.dropped)


def test_shots_reach_every_form_of_request_as_turns() -> None:
    turns = (Message("user", "one"), Message("assistant", "two"), Message("user", "three"))
    framed = Asking().request("r", turns, Sampling(), 1)
    assert framed.text.count("Instruction:") == 2
    assert framed.text.index("two") < framed.text.index("three")
    assert Asking(PromptSettings(format="chatml")).request("r", turns, Sampling(), 1).messages == turns
    with pytest.raises(DataError, match="alternate"):
        Asking().request("r", turns[:2], Sampling(), 1)


def test_a_shot_with_a_word_that_is_asked_for_is_not_shown() -> None:
    for prompt in islice(planner(num_shots=4, max_level=1).prompts(2), 200):
        assert not {word for shot in prompt.shots for word in shot.words} & set(prompt.words)


def test_figures_count_by_reason_and_copies_have_no_diversity() -> None:
    text = told(["dog", "run", "silly"], ["dialogue"], 4)
    kept = [story(told(["dog"], ["dialogue"], n), outcome="kept") for n in range(20)]
    dropped = [story("no", outcome="dropped", part="length", reason="too_short")] * 3
    found = story_figures([*kept, *dropped], KNOWN)
    assert found.drops == {"length: too_short": 3}
    assert (found.accepted.count, found.accepted.total) == (20, 23)
    assert found.words_used.count == 20
    assert found.words_used.total == 69
    assert found.distinct["distinct_3"] > 0.5
    assert distinct([text] * 20, 3) < 0.06


def test_quality_falls_with_a_missing_word_and_with_loops() -> None:
    whole = quality(story(told(["dog", "run", "silly"], ["dialogue"], 4)), KNOWN)
    less = quality(story(told(["dog", "run"], ["dialogue"], 4)), KNOWN)
    looped = quality(story("The dog is silly. " * 20), KNOWN)
    assert 0.9 < whole <= 1
    assert less < whole
    assert looped < less


def test_the_monitor_rings_when_the_window_is_surely_under_the_limit() -> None:
    times = iter([0.0, 60.0, 120.0])
    monitor = Monitor(WatchSettings(window=20, min_acceptance=0.5), lambda: next(times))
    good = [story(f"s{n}", outcome="kept") for n in range(20)]
    bad = [story(f"b{n}", outcome="dropped") for n in range(20)]
    first = monitor.add(good)
    assert first.alarm == ""
    assert first.kept_per_minute == pytest.approx(20)
    assert "0 of the last 20" in monitor.add(bad).alarm
