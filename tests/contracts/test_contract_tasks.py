"""Every generated family keeps the same promises; a new file arrives tested. (Families read from files have tests of
their own: they make what their file holds.)"""

import inspect

import pytest

from rung.base.errors import DataError, MissingDependency
from rung.base.lookup import known, lookup
from rung.records.contracts import Item, Trace
from rung.scoring.checks import Checks, validate_checks
from rung.scoring.stress import StressSettings, stress
from rung.scoring.task import Generated, check_disjoint, split_of

NAMES = [name for name in known("scoring.tasks") if issubclass(lookup("scoring.tasks", name), Generated)]
SLOW = {"reasoning_gym", "logic", "identities", "properties", "programs"}  # a judgement in another process
CHECKS = Checks()


def made(name, seed, count, split="train", difficulty=1):
    kind = lookup("scoring.tasks", name)
    try:
        return kind(kind.Settings(difficulty=difficulty)).make(seed, count, split)
    except MissingDependency as error:
        pytest.skip(str(error))


@pytest.mark.parametrize("name", NAMES)
def test_shape_of_a_family(name):
    kind = lookup("scoring.tasks", name)
    assert all(field.description for field in kind.Settings.model_fields.values())
    assert "difficulty" in inspect.getmodule(kind).__doc__.lower() or name == "target_word"


@pytest.mark.parametrize("name", NAMES)
def test_the_same_seed_gives_the_same_items_and_another_seed_others(name):
    first, again, other = made(name, 1, 8), made(name, 1, 8), made(name, 2, 8)
    assert first == again
    assert [item.id for item in first] != [item.id for item in other]
    assert made(name, 1, 4) == first[:4]


@pytest.mark.parametrize("name", NAMES)
def test_held_out_items_are_never_training_items(name):
    train = [*made(name, 1, 15), *made(name, 2, 15)]
    held_out = [*made(name, 1, 8, "held_out"), *made(name, 2, 8, "held_out")]
    check_disjoint(train, held_out)
    assert {item.id for item in train}.isdisjoint(item.id for item in held_out)
    assert len({item.instruction for item in made(name, 1, 15)}) == 15
    with pytest.raises(DataError, match="is a training item too"):
        check_disjoint(train, [*held_out, train[3]])


@pytest.mark.parametrize("name", NAMES)
@pytest.mark.parametrize("difficulty", [1, 3, 5])
def test_the_reference_passes_and_wrong_replies_fail(name, difficulty):
    for item in made(name, 3, 5 if name in SLOW else 25, difficulty=difficulty):
        reference = item.reference
        validate_checks(reference["checks"], item.id)
        assert CHECKS.score([item], [Trace(item.id, reference["answer"])])[0].value == 1.0, item
        assert reference["wrong"], item
        for wrong in [*reference["wrong"], "", "I do not know."]:
            assert CHECKS.score([item], [Trace(item.id, wrong)])[0].value in (0.0, None), (item, wrong)


@pytest.mark.parametrize("name", NAMES)
def test_prompts_and_answers_are_short_enough_for_a_small_model(name):
    for item in made(name, 4, 10):
        assert len(item.instruction) <= 700
        assert len(item.reference["answer"]) <= 200
        assert item.type == name
        assert split_of(name, item.reference["key"]) == "train"


@pytest.mark.parametrize("name", NAMES)
def test_every_family_survives_the_stress_test_of_its_verifier(name):
    settings = StressSettings(least_items=15, junk_items=1)
    report = stress(name, CHECKS, made(name, 5, 15), settings)
    assert report.verdict == "strong", (report.reasons, report.misjudged)


def test_a_question_belongs_to_one_part_whatever_the_seed():
    parts = [split_of("arithmetic", f"+ [1, {n}]") for n in range(2000)]
    assert 0.2 < parts.count("held_out") / 2000 < 0.3
    assert split_of("arithmetic", "+ [1,  5]") == split_of("arithmetic", "+ [1, 5]")


def test_more_items_than_there_are_is_an_error_that_says_how_many():
    kind = lookup("scoring.tasks", "target_word")
    few = kind(kind.Settings(prompt="Say {word}.", words=("yes", "no", "maybe")))
    with pytest.raises(DataError, match=r"only [0-3] different train questions"):
        few.make(0, 50)


def test_an_item_without_a_key_is_told_apart_by_its_words():
    with pytest.raises(DataError, match="training item too"):
        check_disjoint([Item("a", "Say  yes.")], [Item("b", "say yes.")])
