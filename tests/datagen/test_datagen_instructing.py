"""Instructions from a corpus: kinds, styles, checks, conversations, figures and versions, without a model."""

from __future__ import annotations

import dataclasses
from itertools import islice
from pathlib import Path
from typing import Any, ClassVar

import pytest
import yaml

from rung.base.errors import DataError
from rung.base.lookup import known
from rung.datagen.instructing.alignment import alignment, asks_of
from rung.datagen.instructing.asking import KINDS, Ask, Means, kinds, wordings
from rung.datagen.instructing.distribution import changelog, distribution, diversity, version_of
from rung.datagen.instructing.pairing import Bench, PairSettings, pair_up, sft_of
from rung.datagen.instructing.quality import instruction_fault, pair_fault
from rung.datagen.instructing.styles import STYLES, load_styles
from rung.datagen.stories.vocabulary import triples
from rung.records.contracts import Request
from rung.records.scripted import Scripted
from rung.records.types import Document, SftRecord, from_plain, record_id, to_plain
from story_script import KNOWN, told

SPECS = ("words", "sentence", "features", "gist")
META = {"model_name": "m", "loader_version": "1", "git_commit": "c"}


def documents(count: int = 100) -> list[Document]:
    """Different stories, each with a dialogue and a kindness."""
    asked = islice(triples(KNOWN.vocabulary, 5), count)
    texts = [told([w.text for w in words], ["dialogue", "kindness"], seed) for seed, words in enumerate(asked)]
    return [Document(record_id(text), text, "stories:scripted", "Apache-2.0", "en") for text in texts]


def bench(specs: tuple[Any, ...] = SPECS, completer: Any = None, styles: tuple[str, ...] = (), **pairs: Any) -> Bench:
    made = kinds(specs, Means(KNOWN, completer), "kinds")
    return Bench(PairSettings(**pairs), made, wordings(made), load_styles().only(styles, "styles"), KNOWN.features)


def records(chosen: Bench, count: int = 100, seed: int = 1) -> list[SftRecord]:
    return [sft_of(pair, META) for pair in pair_up(documents(count), chosen, seed).pairs]


@pytest.fixture(scope="module")
def made() -> list[SftRecord]:
    return records(bench())


@pytest.mark.parametrize("name", known(KINDS))
def test_every_kind_holds_for_its_own_text_and_not_for_another(name: str) -> None:
    def summed(request: Request) -> str:
        return "A silly dog runs home."

    [kind] = kinds([name], Means(KNOWN, Scripted(summed)), "").values()
    for text, other in (
        kind.EXAMPLES if name != "summary" else (("The silly dog runs home to mother.", "The cat slept."),)
    ):
        [ask] = kind.asks([Document("d", text, "s")], 1)
        assert ask is not None
        assert kind.holds(ask, text)
        assert not kind.holds(ask, other)
        assert set(ask.said) == set(kind.said)


def test_item_210_every_instruction_is_true_of_its_story(made: list[SftRecord]) -> None:
    assert {kind for r in made for kind in r.metadata["instruction"]["kinds"]} == set(SPECS)
    assert any("+" in record.type for record in made)
    for record in made:
        for ask in asks_of(record):
            if ask.kind == "sentence":
                assert ask.wanted[0] in record.response
                assert ask.wanted[0] in record.instruction
            if ask.kind == "words":
                assert all(f'"{word}"' in record.instruction for word in ask.wanted)
                assert len(ask.wanted) == 3


def test_features_are_never_asked_alone(made: list[SftRecord]) -> None:
    assert not [record for record in made if record.type == "features"]
    assert [record for record in made if "features" in record.type]


def test_item_212_swapped_stories_are_detected(made: list[SftRecord]) -> None:
    found = alignment(made, bench().kinds)
    assert found.aligned.count == found.aligned.total >= 100
    assert found.caught.total >= 100
    assert found.caught.count >= 0.9 * found.caught.total


def test_an_alignment_check_that_accepts_everything_would_be_seen(made: list[SftRecord]) -> None:
    chosen = bench()
    for kind in chosen.kinds.values():
        kind.holds = lambda ask, text: True  # type: ignore[method-assign]
    assert alignment(made, chosen.kinds).caught.count == 0


class Rhyme:
    """A kind of the user's own, registered by nothing but its name in the recipe."""

    identifies: ClassVar[bool] = True
    needs_completer: ClassVar[bool] = False
    said: ClassVar[tuple[str, ...]] = ("last",)
    clauses: ClassVar[tuple[str, ...]] = ('that ends with the word "{last}"',)
    lines: ClassVar[tuple[str, ...]] = ("Last word: {last}.",)
    Settings = type(PairSettings())

    def __init__(self, settings: Any, means: Means) -> None:
        self.settings = settings

    def asks(self, documents: list[Document], seed: int) -> list[Ask]:
        """The last word of each."""
        lasts = [document.text.rstrip(". \n").rsplit(None, 1)[-1] for document in documents]
        return [Ask("rhyme", {"last": last}, (last,)) for last in lasts]

    def holds(self, ask: Ask, text: str) -> bool:
        """Whether it is the last word."""
        return text.rstrip(". \n").endswith(ask.wanted[0])


def test_item_209_and_221_a_kind_of_the_users_own_needs_no_change_elsewhere() -> None:
    made = records(bench(("words", f"{__name__}:Rhyme"), max_asks=1))
    assert {record.type for record in made if not record.earlier} >= {"words", "rhyme"}
    core = [path for path in STYLES.parent.glob("*.py") if path.name != "__init__.py"]
    assert len(core) >= 5
    for path in core:
        assert "instructing.kinds import" not in path.read_text()
        assert not [name for name in known(KINDS) if f"instructing.kinds.{name}" in path.read_text()]


@pytest.mark.parametrize(
    ("text", "asks", "fault"),
    [
        ("  ", [], "empty"),
        ("Write a story {asks}.", [], "placeholder"),
        ("Write a story with a moral and a sad end.", [Ask("features", {}, ("moral", "bad_ending"))], "contradiction"),
        ("Write a story.", [Ask("words", {}, ("a",)), Ask("words", {}, ("b",))], "contradiction"),
        ("Tell the story of the picture below.", [], "unanswerable"),
        ("Write a story about the following text.", [], "unanswerable"),
        ("Write a story " + "and go on " * 60, [], "too_long"),
        ('Write a story that says: "The dog ran home."', [Ask("sentence", {}, ("The dog ran home.",))], ""),
    ],
)
def test_item_211_an_instruction_is_rejected_with_its_reason(text: str, asks: list[Ask], fault: str) -> None:
    assert instruction_fault(text, asks, KNOWN.features) == fault


@pytest.mark.parametrize(
    ("instruction", "response", "fault"),
    [
        ("Write a story.", "No.", "short_response"),
        ("Write a story.", "word " * 500, "long_response"),
        ("Write a story.", "The dog ran home at last.\n###END###", "delimiter"),
        ('Write: "The dog ran home to his mother today."', "The dog ran home to his mother today.", "says_the_answer"),
        ("Write a story.", "The dog ran home to his mother today.", ""),
    ],
)
def test_a_pair_is_rejected_with_its_reason(instruction: str, response: str, fault: str) -> None:
    assert pair_fault(instruction, response, (5, 400)) == fault


def test_item_214_planted_bad_documents_go_and_good_ones_stay() -> None:
    good = documents(20)
    short = dataclasses.replace(good[0], id="short", text='"Go," said Tom. A dog ran.')
    leak = dataclasses.replace(good[1], id="leak", text=good[1].text + "\n###END###")
    twice = dataclasses.replace(good[2], id="twice")
    chosen = bench(("words", "sentence"), multi_turn=0, min_asks=2, max_asks=2, min_words=10)
    found = pair_up([*good, short, leak, twice], chosen, 4)
    kept = {pair.document.id for pair in found.pairs}
    assert {document.id for document in good} <= kept
    assert not {"short", "leak"} & kept
    reasons = {drop.detail["document"]: drop.reason for drop in found.dropped}
    assert reasons["leak"] == "delimiter"


def test_item_215_the_same_content_in_the_styles_that_are_chosen() -> None:
    for style in ("plain", "polite", "terse"):
        made = records(bench(styles=(style,), multi_turn=0), 20)
        assert {record.metadata["instruction"]["style"] for record in made} == {style}
        assert all(("\n" in record.instruction) == (style == "terse") for record in made)
    with pytest.raises(DataError, match="did you mean 'polite'"):
        bench(styles=("polit",))


@pytest.mark.parametrize(
    ("key", "name", "text", "message"),
    [
        ("styles", "plain", "Write a story.", r"'\{asks\}' is missing"),
        ("styles", "plain", "Write a story {asks} for {reader}.", r"unknown placeholder '\{reader\}'"),
        ("styles", "plain", "{asks} {lines}", "not both"),
        ("turns", "go_on", "Write something new {asks}.", "refer to what was said before"),
        ("turns", "begin", "Begin.", r"'\{asks\}' is missing"),
    ],
)
def test_item_216_a_wrong_template_fails_when_it_is_read(
    tmp_path: Path, key: str, name: str, text: str, message: str
) -> None:
    values = yaml.safe_load(STYLES.read_text())
    values[key][name] = [text]
    path = tmp_path / "styles.yaml"
    path.write_text(yaml.safe_dump(values))
    with pytest.raises(DataError, match=message):
        load_styles(path)


def test_a_kind_with_a_wrong_wording_fails_before_any_work() -> None:
    class Broken(Rhyme):
        clauses = ("that ends with {first}",)

    with pytest.raises(DataError, match=r"unknown placeholder '\{first\}'"):
        wordings({"broken": Broken})


def test_item_217_three_turns_round_trip_and_the_later_ones_refer_back() -> None:
    made = [record for record in records(bench(multi_turn=1.0), 12) if record.metadata["instruction"]["conversation"]]
    groups: dict[str, list[SftRecord]] = {}
    for record in made:
        groups.setdefault(record.metadata["instruction"]["conversation"], []).append(record)
    assert len(groups) > 6
    for first, second, third in groups.values():
        assert [len(record.earlier) for record in (first, second, third)] == [0, 2, 4]
        assert third.earlier_pairs == [(r.instruction, r.response) for r in (first, second)]
        assert all(
            any(word in f" {record.instruction.lower()}" for word in (" it", "then", "story"))
            for record in (second, third)
        )
        assert f"{first.response} {second.response}".split() == next(
            document.text.split() for document in documents(12) if document.text.startswith(first.response)
        )
        assert from_plain(SftRecord, to_plain(third)) == third
        assert third.training_prompt.count("Instruction:") == 3


def test_item_218_where_each_comes_from(made: list[SftRecord]) -> None:
    ids = {document.id for document in documents()}
    for record in made:
        said = record.metadata["instruction"]
        assert said["document"] in ids
        assert said["kinds"] == [ask["kind"] for ask in said["asks"]]
        assert len(said["template_version"]) == 8
        assert said["template"].startswith("styles.yaml")
        assert record.metadata["seed"]
    assert made == records(bench())
    assert [r.id for r in made] != [r.id for r in records(bench(), seed=2)]


def test_item_213_copies_have_no_diversity(made: list[SftRecord]) -> None:
    different, same = diversity(made), diversity([made[0]] * 100)
    assert different.types > 0.5
    assert different.styles > 0.8
    assert different.openings > 0.4
    assert different.distinct["distinct_2"] > 0.2
    assert (same.types, same.styles, same.openings) == (0.0, 0.0, 0.0)
    assert same.distinct["distinct_2"] < 0.05


def test_item_219_versions_have_ids_a_difference_and_a_changelog(made: list[SftRecord]) -> None:
    assert version_of(made).id == version_of(list(reversed(made))).id != version_of(made[1:]).id
    again = records(bench(multi_turn=0), seed=1)
    text = changelog(made, again)
    gone = sum(bool(record.metadata["instruction"]["conversation"]) for record in made)
    assert f"0 added, {gone} removed" in text
    assert version_of(made).id in text
    asked_anew = changelog(records(bench(multi_turn=0), seed=1), records(bench(multi_turn=0), seed=2))
    assert "100 texts are asked differently" in asked_anew or "99 texts" in asked_anew


def test_item_220_the_distribution_names_what_is_missing(made: list[SftRecord]) -> None:
    styles = list(load_styles().styles)
    found = distribution(made, [*styles, "royal"], [*SPECS, "rhyme"])
    assert set(found) >= {"types", "kinds", "styles", "templates", "turns", "opening_words", "response_words", "gaps"}
    assert sum(found["types"].values()) == len(made)
    assert "rhyme is never asked" in found["gaps"]
    assert "royal is never used" in found["gaps"]
    assert "words in plain" not in found["gaps"]


def test_a_summary_that_is_made_up_is_left_out() -> None:
    answers = {"right": "The dog runs to the house.", "wrong": "Astronauts colonise distant asteroids."}
    text = "The silly dog runs out of the door. He comes back to the big house."
    for name, answer in answers.items():
        [kind] = kinds(["summary"], Means(KNOWN, Scripted([answer])), "").values()
        [ask] = kind.asks([Document("d", text, "s")], 1)
        assert (ask is not None) == (name == "right")
    [kind] = kinds(["summary"], Means(KNOWN), "").values()
    with pytest.raises(DataError, match="needs a model"):
        kind.asks([Document("d", text, "s")], 1)
