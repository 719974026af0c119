"""The held-out items: well formed, checkable, disjoint from what they must be disjoint from."""

import dataclasses
from collections import Counter
from pathlib import Path

import pytest
import yaml

import rung
from rung.base.errors import DataError, SettingsError
from rung.base.lookup import part as part_of
from rung.evaluate.item_set import check_items, choose, fold, overlap, read_items, version_of
from rung.records.types import TestItem
from rung.scoring.checks import run_checks, validate_checks

RAMBLING = (
    "The following is a question about a topic that has been discussed by many people. It is important to note that "
    "there are several ways to think about it, and the author of the article says that more research is required.",
    "I am not sure what you mean, but I think that it depends. There was a man who went to the store and then he went "
    "home. Then he went to the store.",
    "A. The first option\nB. The second option\nC. The third option\nD. None of the above\n\nExplanation: see text.",
    "What is the meaning of the following word?\nWhat is the meaning of the following sentence?",
    "1. 2. 3. 4. 5. 6. 7. 8. 9. 10. 11. 12.",
    "Yes and no, maybe, positive, negative, up, down, 1, 2, 3, 4, 5, 6, 7, red, blue, Paris, London, dog, cat, house",
    "!!! ??? ...",
)


def suite(**values):
    kind, settings = part_of("evaluate.suites", {"kind": "instruction_following", **values})
    return kind(settings)


ITEMS = suite().items()


def an_item(text, name="x", type_="factual"):
    return TestItem(name, text, type_, "f", {"contains": {"groups": ["x"]}}, "x")


def test_the_set_is_large_typed_and_not_dominated_by_a_pattern():
    types = Counter(item.type for item in ITEMS)
    assert len(ITEMS) >= 330
    assert all(count >= 30 for name, count in types.items() if name != "safety")
    assert types["safety"] >= 20
    assert {"factual", "explanation", "list_generation", "instruction_following", "creative", "format"} <= set(types)
    assert max(Counter(item.family for item in ITEMS).values()) <= 12


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_the_reference_passes_and_nonsense_fails(item):
    validate_checks(item.checks, item.id)
    assert run_checks(item, item.reference).passed, run_checks(item, item.reference).verdicts
    for text in ("", "   \n", item.instruction, item.instruction.upper() + "?", *RAMBLING):
        assert not run_checks(item, text).passed, text


@pytest.mark.parametrize("item", ITEMS, ids=lambda item: item.id)
def test_another_items_answer_does_not_pass_by_luck(item):
    others = [other for other in ITEMS if other.family != item.family][::9]
    lucky = [other.reference for other in others if run_checks(item, other.reference).passed]
    assert len(lucky) <= len(others) * 0.08, lucky


def test_references_with_more_after_them_still_pass_where_no_limit_is_stated():
    tail = "\n\n" + "It is good to know such things, as many people like to talk of them. " * 12
    limited = {
        "word_limit",
        "line_count",
        "json_format",
        "case_format",
        "ends_with",
        "exact_text",
        "ordered",
        "language",
    }
    free = [item for item in ITEMS if not limited & item.checks.keys()]
    assert len(free) > 240
    assert [i.instruction for i in free if not run_checks(i, i.reference + tail).passed] == []


def test_selection_is_typed_balanced_and_seeded():
    chosen = suite(count=200, seed=4).items()
    assert len(chosen) == 200
    counts = Counter(item.type for item in chosen).values()
    assert len(counts) >= 5
    assert max(counts) - min(counts) <= 1
    assert chosen == suite(count=200, seed=4).items()
    assert chosen != suite(count=200, seed=5).items()
    only = suite(types=["safety", "format"]).items()
    assert {item.type for item in only} == {"safety", "format"}


def test_short_types_give_their_places_to_others_and_impossible_choices_are_refused():
    assert len(suite(count=330).items()) == 330
    with pytest.raises(SettingsError, match="no items of type 'poetry'"):
        suite(types=["poetry"]).items()
    with pytest.raises(SettingsError, match="asked for"):
        choose(ITEMS, 100_000, (), 0)


def test_a_changed_item_changes_the_version():
    changed = [*ITEMS[:-1], dataclasses.replace(ITEMS[-1], reference=ITEMS[-1].reference + " ")]
    assert version_of(ITEMS) == suite().version == version_of(ITEMS[::-1])
    assert version_of(changed) != version_of(ITEMS)
    assert suite(count=50).version != suite().version


@pytest.mark.parametrize(
    "again",
    ["name a large river", "Name a large  river!!", "A river: name large.", "Náme a large river"],
)
def test_repeats_and_near_repeats_are_refused(again):
    with pytest.raises(DataError, match="items 'a' and 'b'"):
        check_items([an_item("Name a large river", "a"), an_item(again, "b")])


def test_different_numbers_and_operators_are_different_items():
    sums = ["What is 3 + 4?", "What is 3 - 4?", "What is 3 + 5?"]
    check_items([an_item(text, text) for text in sums])
    assert len({fold(text) for text in sums}) == 3
    assert fold("What is 3+4") == fold("what is 3 plus 4?")


def test_a_broken_file_names_its_line(tmp_path):
    path = tmp_path / "items.jsonl"
    path.write_text('{"id": "a"')
    with pytest.raises(DataError, match=r"items.jsonl:1"):
        read_items(path)
    path.write_text('\n{"id": "a"}\n')
    with pytest.raises(DataError, match=r"items.jsonl:2.*missing"):
        read_items(path)


def test_overlap_finds_planted_variants_and_nothing_else():
    items = [
        an_item("Which river runs through the old town of Bern?", "river"),
        an_item("Tell me in a few plain words why the candle on the table goes out under a glass.", "candle"),
        an_item("Name two nuts.", "nuts"),
    ]
    texts = [
        "Which river runs through the old town of Bern?",
        "which River runs, through the old TOWN of Bern",
        "Instruction: Which river runs through the old town of Bern?\nResponse: The Aare.",
        "Through the old town of Bern runs which river?",
        "Tell me in a few plain words why the candle on the table goes out under a hat.",
        "Which river runs through Vienna? Name two kinds of nuts, please, and a candle.",
    ]
    found = {(hit.item_id, hit.text_index): hit.kind for hit in overlap(items, texts)}
    assert found == {
        ("river", 0): "exact",
        ("river", 1): "folded",
        ("river", 2): "contained",
        ("river", 3): "same_words",
        ("candle", 4): "ngram",
    }


def test_no_shipped_example_is_held_out():
    texts = [
        text
        for path in Path(rung.__file__).parent.rglob("*.yaml")
        for text in strings(yaml.safe_load(path.read_text()))
    ]
    assert len(texts) > 200
    assert [(hit.item_id, hit.kind, hit.text) for hit in overlap(ITEMS, texts)] == []


def strings(value):
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, list):
        return [text for part in value for text in strings(part)]
    return [value] if isinstance(value, str) else []


def test_every_item_is_found_in_a_changed_spelling_of_itself():
    texts = [item.instruction.upper().replace("?", " !") for item in ITEMS]
    assert {hit.item_id for hit in overlap(ITEMS, texts)} == {item.id for item in ITEMS}
