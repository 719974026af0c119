"""Every validator of stories: its examples come out as written, drops carry span and reason, order does not matter."""

from __future__ import annotations

from typing import Any

import pytest

from rung.base.lookup import known, part
from rung.datagen.stories.features import load_features
from rung.datagen.stories.judging import VALIDATORS, Known
from rung.datagen.stories.vocabulary import load_vocabulary
from rung.records.types import Message, Story

KNOWN = Known(load_vocabulary(), load_features())
NAMES = known(VALIDATORS)


def make(text: str, name: str = "s", **changes: Any) -> Story:
    said = {
        "id": name, "prompt_id": "p", "number": 0, "words": ("dog", "run", "silly"), "features": ("dialogue",),
        "level": 1, "template": "t", "template_version": "0", "strategy": "batch", "messages": (), "seed": 1,
        "temperature": 0.7,
        "raw_text": text, "finish_reason": "eos", "num_tokens": 9,
    }  # fmt: skip
    return Story(**{"text": text, **said, **changes})


def fresh(name: str, **settings: Any) -> Any:
    kind, own = part(VALIDATORS, {"kind": name, **settings})
    return kind(own, KNOWN)


CASES = [(name, text, reason) for name in NAMES for text, reason in part(VALIDATORS, name)[0].EXAMPLES]


@pytest.mark.parametrize(("name", "text", "reason"), CASES)
def test_examples_come_out_as_written(name: str, text: str, reason: str) -> None:
    found = fresh(name).apply([make(text)])
    assert [drop.reason for drop in found.dropped] == ([reason] if reason else [])
    for drop in found.dropped:
        assert drop.part == name
        assert drop.span is not None
        assert 0 <= drop.span[0] <= drop.span[1] <= len(text)


@pytest.mark.parametrize("name", NAMES)
def test_every_validator_has_a_good_example_and_a_bad_one_unless_it_compares(name: str) -> None:
    reasons = {reason for of, _, reason in CASES if of == name}
    assert "" in reasons
    assert len(reasons) > 1 or hasattr(fresh(name), "remember")


@pytest.mark.parametrize("name", NAMES)
def test_an_empty_story_never_breaks_it(name: str) -> None:
    assert len(fresh(name).apply([make("")]).dropped) <= 1


def test_copies_of_kept_stories_of_shots_and_of_remembered_ones_are_found() -> None:
    text = "One day a dog ran to the park and found a big red ball under a tree."
    near = text.replace("big", "small")
    far = "A cat slept on the warm roof all day and dreamed of fish and milk and mice."
    stories = [make(text, "a"), make(text.upper(), "b"), make(near, "c"), make(far, "d")]
    found = fresh("near_copies").apply(stories)
    assert [story.id for story in found.kept] == ["a", "d"]
    assert [drop.reason for drop in found.dropped] == ["copy", "near_copy"]
    shown = make(text, "e", messages=(Message("user", "x"), Message("assistant", text), Message("user", "y")))
    assert fresh("near_copies").apply([shown]).dropped[0].reason == "copies_shot"
    later = fresh("near_copies")
    later.remember([text])
    assert later.apply([make(near, "f")]).dropped[0].reason == "near_copy"


def test_a_story_that_the_limit_ended_is_taken_only_on_purpose() -> None:
    cut = make("They all went home and slept.", finish_reason="length")
    assert fresh("ending").apply([cut]).dropped[0].reason == "cut_by_limit"
    assert not fresh("ending", allow_limit=True).apply([cut]).dropped
