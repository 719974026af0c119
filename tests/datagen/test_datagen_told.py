"""What is counted of told stories: heroes, words, faults, what is not in the corpus (item 176)."""

from __future__ import annotations

from pathlib import Path

import pytest

from rung.base.errors import DataError
from rung.datagen.stories.features import load_features
from rung.datagen.stories.judging import Known, validators
from rung.datagen.stories.told import Runs, Told, fault_of, load_openings
from rung.datagen.stories.vocabulary import load_vocabulary

KNOWN = Known(load_vocabulary(), load_features())


def told(text: str, *, hero: str = "", words: tuple[str, ...] = (), ending: str = "eos") -> Told:
    return Told("trained", "opening 1", hero, words, text, ending)


def test_there_are_fifty_openings_and_each_names_its_hero() -> None:
    openings = load_openings()
    assert len(openings) == len({one.begun for one in openings}) == 50
    for one in openings:
        assert told(f"x {one.begun}", hero=one.hero).keeps_to_hero("x ")


def test_a_hero_counts_only_after_the_opening() -> None:
    begun = "Mila found a door."
    assert not told(f"{begun} A dog came out.", hero="Mila").keeps_to_hero(begun)
    assert told(f"{begun} A dog saw Mila's hat.", hero="Mila").keeps_to_hero(begun)


def test_words_count_in_any_form() -> None:
    assert told("The dogs ran away.", words=("dog", "run", "cake")).used(KNOWN) == 2


def test_runs_that_the_corpus_has_are_not_new() -> None:
    runs = Runs(["The dog ran to the park, and sat.", "A cat."])
    assert runs.unseen("the dog ran to the park") == 0.0
    assert runs.unseen("The dog ran to a shop") == pytest.approx(1 - 1 / 3)
    assert runs.unseen("A cat.") == -1.0


def test_the_first_fault_is_named() -> None:
    judges = validators(({"kind": "length", "min_words": 4}, "ending"), KNOWN, "validators")
    texts = [told("The dog ran home."), told("Home."), told("The dog ran and ran", ending="length")]
    assert fault_of(texts, judges) == ["", "length: too_short", "ending: cut_by_limit"]


def test_a_told_story_survives_its_record() -> None:
    one = Told("trained", "request 2", "", ("dog", "run"), "A dog ran.", "eos", 0.25, 12.5, 10)
    assert Told.of(one.record(3)) == one
    assert one.record(3).id != one.record(4).id


@pytest.mark.parametrize(
    "text",
    [
        "openings: []",
        "openings: [{hero: Tom, text: A dog ran.}]",
        "openings: [{hero: Tom}]",
        "openings: [{hero: '', text: A}]",
    ],
)
def test_broken_openings_are_refused_by_number(tmp_path: Path, text: str) -> None:
    path = tmp_path / "openings.yaml"
    path.write_text(text)
    with pytest.raises(DataError, match="opening"):
        load_openings(path)
