"""Filters, cleaning, heuristics and their validation: items 26, 28-31, 33, 55-59, 74, 75, 77, 78."""

from __future__ import annotations

from pathlib import Path

import pytest
from datagen_builders import candidate, instruction

from rung.base.errors import DataError, SettingsError
from rung.base.lookup import known, lookup, part
from rung.base.seeds import stream
from rung.datagen.filters.cleaning import Cleaning
from rung.datagen.filters.held_out import HeldOut
from rung.datagen.filters.incomplete import Incomplete
from rung.datagen.filters.near_duplicates import NearDuplicates
from rung.datagen.filters.runaway import Runaway
from rung.datagen.filters.scope import Scope
from rung.datagen.findings import Subject, apply_filters
from rung.datagen.heuristics import HEURISTICS, delimiter_leak, echo, incomplete, runaway, unfit
from rung.datagen.qc_report import audit_cleaning
from rung.datagen.validation import ValidationSettings, advisory, load_labelled, validate_heuristics
from rung.records.chat.frame import Frame

CLEANING = [
    ("Fine.\n###END###\nmore", "Fine.", ("delimiter",)),
    ("Fine. ###END### more", "Fine.", ("delimiter",)),
    ("Fine.\nInstruction: do it", "Fine.", ("new_prompt",)),
    ("Fine.\nQ: why?", "Fine.", ("new_prompt",)),
    ("Fine.\nA: because", "Fine.", ("new_prompt",)),
    ("Fine.\nQuestion 3: why?", "Fine.", ("new_prompt",)),
    ("Fine.\nNext question: why?", "Fine.", ("next_question",)),
    ("Fine.\nHere is another instruction:\nSay it", "Fine.", ("next_question",)),
    ("Fine.\n\nThe second paragraph.", "Fine.", ("paragraph",)),
    ("Three things:\n\n1. a\n2. b\n\nAnd so on.", "Three things:\n\n1. a\n2. b", ("paragraph",)),
    ("Answer: four", "four", ("leading_label",)),
    ("Fine. ###", "Fine.", ("stray_mark",)),
    ("  Fine.\n", "Fine.", ()),
    ("Now for safety, turn off the gas.", "Now for safety, turn off the gas.", ()),
    ("Moving on, we add salt. Now for the next question of taste.",) * 2 + ((),),
    ("Press C# or F## to play.", "Press C# or F## to play.", ()),
]


@pytest.mark.parametrize(("raw", "cleaned", "rules"), CLEANING)
def test_items_28_31_one_rule_each(raw: str, cleaned: str, rules: tuple[str, ...]) -> None:
    assert Cleaning(Cleaning.Settings()).clean(raw) == (cleaned, rules)


def test_item_30_paragraphs_can_stay_and_run_ons_still_go() -> None:
    keep = Cleaning(Cleaning.Settings(paragraphs="keep"))
    assert keep.clean("One.\n\nTwo.\n\nInstruction: three")[0] == "One.\n\nTwo."
    rows = [candidate(n, "x", generated="One.\n\nTwo." if n < 3 else "One.") for n in range(5)]
    cleaned = Cleaning(Cleaning.Settings()).apply(rows).kept
    audit = audit_cleaning(cleaned, 100, seed=1)
    assert sum("paragraph" in row.rules for row in audit) == 3


def test_cleaning_keeps_raw_text_order_and_drops_what_is_empty() -> None:
    rows = [
        candidate(0, "x", generated=" One.\nQ: two"),
        candidate(1, "x", generated="\nInstruction: no"),
        candidate(2, "x", generated="Two"),
    ]
    result = Cleaning(Cleaning.Settings()).apply(rows)
    assert [(row.id, row.response, row.generated) for row in result.kept] == [
        ("c0", "One.", " One.\nQ: two"),
        ("c2", "Two", "Two"),
    ]
    assert [row.num_response_tokens for row in result.kept] == [-1, -1]
    assert [(drop.id, drop.reason) for drop in result.dropped] == [("c1", "nothing_left")]


def test_item_29_the_audit_puts_the_largest_changes_first() -> None:
    rows = [candidate(n, "Short answer.", generated="Short answer.") for n in range(98)]
    rows += [candidate(98, "A", generated="A" + "b" * 80), candidate(99, "A", generated="A" + "b" * 300)]
    audit = audit_cleaning(rows, 100, seed=1)
    assert len(audit) == 100
    assert [(row.id, row.removed, row.large) for row in audit[:3]] == [
        ("c99", 300, True),
        ("c98", 80, True),
        ("c0", 0, False),
    ]
    assert len(audit_cleaning(rows[:7], 100, seed=1)) == 7
    assert audit_cleaning(rows, 10, seed=1) == audit_cleaning(rows, 10, seed=1)


def test_item_26_planted_repeats_are_found_once_each() -> None:
    random = stream(1, "words")
    syllables = ["ba", "do", "ki", "lu", "mer", "sa", "tin", "vo", "ra", "pel", "gun", "shi"]
    made = ["".join(random.choices(syllables, k=3)) for _ in range(300)]
    base = [f"Why do {' '.join(made[n * 5 : n * 5 + 5])} before winter?" for n in range(60)]
    exact = [text.upper().replace("?", " ?!") for text in base[:30]]
    near = [text.replace("before winter", "before the winter") for text in base[30:40]]
    rows = [instruction(n, text) for n, text in enumerate([*base, *exact, *near])]
    dedup = NearDuplicates(NearDuplicates.Settings(similarity=0.7))
    # Fed in pieces, it remembers across them.
    results = [dedup.apply(rows[start : start + 7]) for start in range(0, len(rows), 7)]
    reasons = [drop.reason for result in results for drop in result.dropped]
    assert reasons.count("exact_repeat") == 30
    assert reasons.count("near_repeat") == 10
    assert [row.text for result in results for row in result.kept] == base
    by_id = {row.id: row for row in rows}
    near_drop = next(drop for result in results for drop in result.dropped if drop.reason == "near_repeat")
    assert by_id[near_drop.detail["repeats"]].text == by_id[near_drop.id].text.replace("the winter", "winter")


def test_near_duplicates_resume_and_keep_different_questions() -> None:
    dedup = NearDuplicates(NearDuplicates.Settings())
    dedup.remember([instruction(1, "What is the capital of France?")])
    rows = [instruction(2, "what is the capital of france"), instruction(3, "What is the longest river of Asia?")]
    result = dedup.apply(rows)
    assert [row.id for row in result.kept] == ["i3"]
    assert result.dropped[0].detail["repeats"] == "i1"


def test_item_33_held_out_texts_are_kept_clear_of() -> None:
    held_out = [
        "Name the colour of a ripe lemon.",
        "Write one sentence on how a sailor ties a rope to a post in a storm.",
    ]
    guard = HeldOut(HeldOut.Settings(), held_out=held_out)
    rows = [
        instruction(1, "name the COLOUR of a ripe lemon"),
        instruction(2, "Please tell me how a sailor ties a rope to a post in a hurry."),
        instruction(3, "Name a colour of the ripe lemon."),
        instruction(4, "Name the colour of the sea."),
        candidate(5, "He knows how a sailor ties a rope to a post in a storm."),
        candidate(6, "Yellow."),
    ]
    result = guard.apply(rows)
    assert [row.id for row in result.kept] == ["i4", "c6"]
    assert [drop.reason for drop in result.dropped] == [
        "equals_held_out",
        "shares_words_with_held_out",
        "nearly_held_out",
        "shares_words_with_held_out",
    ]


PATTERNS = [
    "Instruction:",
    "Q:",
    "A:",
    "Question:",
    "Response:",
    "User:",
    "Human:",
    "Assistant:",
    "Answer 2:",
    "### Q:",
]


@pytest.mark.parametrize("opener", PATTERNS)
@pytest.mark.parametrize("newline", ["\n", "\n\n"])
def test_item_59_planted_runaways_are_flagged(opener: str, newline: str) -> None:
    text = f"Good.{newline}{opener} and now this?"
    finding = runaway(Subject("", text))
    assert finding is not None
    assert finding.rule == "new_prompt"
    assert text[slice(*finding.span)].endswith((":", "Q"))


@pytest.mark.parametrize(("length", "flagged"), [(499, False), (500, False), (501, True)])
def test_item_56_length_is_a_clause_of_its_own(length: int, flagged: bool) -> None:
    finding = runaway(Subject("", "x" * length))
    assert (finding is not None) is flagged
    assert finding is None or finding.rule == "too_long"
    rows = [candidate(1, "x" * length), candidate(2, "Good.\nQ: no")]
    assert [drop.id for drop in Runaway(Runaway.Settings()).apply(rows).dropped] == ["c2"]
    dropped = Runaway(Runaway.Settings(drop_long=True)).apply(rows).dropped
    assert [drop.id for drop in dropped] == (["c1", "c2"] if flagged else ["c2"])


def test_items_55_77_what_the_critic_passes_is_dropped_with_its_own_reason() -> None:
    # Both carry an accepting critique: the critic saw a good beginning.
    cut = candidate(1, "1) Wind Energy\n5) Biomass Energy -")
    result = Incomplete(Incomplete.Settings()).apply([cut, candidate(2, "Yes."), candidate(3, "There are two:")])
    assert cut.pair_critique is not None
    assert cut.pair_critique.accepted
    assert [row.id for row in result.kept] == ["c2"]
    assert [(drop.part, drop.reason) for drop in result.dropped] == [
        ("incomplete", "bare_hyphen"),
        ("incomplete", "ends_in_colon"),
    ]
    assert cut.response[slice(*result.dropped[0].span or ())] == " -"


@pytest.mark.parametrize(
    ("text", "rule"),
    [
        ("Reasons:", "ends_in_colon"),
        ("Use this:\n```\nx = 1", "open_code_fence"),
        ("1. a\n2.", "bare_list_marker"),
        ("It is made of", "dangling_word"),
        ("and so", "bare_fragment"),
        ("Yes.", None),
        ("Paris", None),
        ("It rained all day and we stayed at home", "no_final_stop"),
    ],
)
def test_item_77_table(text: str, rule: str | None) -> None:
    finding = incomplete(Subject("", text))
    assert (finding.rule if finding else None) == rule


def test_item_78_out_of_scope_is_set_aside_with_a_reason() -> None:
    rows = [candidate(1, "True", instruction="Cats are mammals."), candidate(2)]
    outcome = apply_filters([("scope", Scope(Scope.Settings()))], rows)
    assert [(row.id, row.outcome, row.reason) for row in outcome.decided] == [("c1", "set_aside", "statement_judged")]
    assert [row.id for row in outcome.kept] == ["c2"]
    assert outcome.dropped[0].detail["set_aside"] is True


def test_item_38_a_stage_brings_its_own_scope_rule() -> None:
    found, settings = part(
        "datagen.filters",
        {"kind": "scope", "rules": [{"name": "recipes", "instruction": "(?i)bake", "response": "oven"}]},
    )
    rows = [candidate(1, "Use the oven.", instruction="How do I bake?"), candidate(2, "Use the oven.")]
    assert [drop.reason for drop in found(settings).apply(rows).dropped] == ["recipes"]
    with pytest.raises(SettingsError, match="not a regular expression"):
        part("datagen.filters", {"kind": "scope", "rules": [{"name": "x", "response": "("}]})


def test_echo_sees_a_copied_few_shot_response() -> None:
    prompt = Frame.prompt("What is rain?", [("Name a boat.", "The good ship Venus sails."), ("Yes?", "No")])
    copied = Subject("What is rain?", "the good ship Venus sails", prompt=prompt)
    finding = echo(copied)
    assert finding is not None
    assert finding.rule == "copies_example"
    assert echo(Subject("Is it hot?", "No", prompt=prompt)) is None


def test_leaks_are_seen_whole_or_partial() -> None:
    assert all(delimiter_leak(text) for text in ("a\n###END###", "a ###", "###"))
    assert delimiter_leak("C# and F##") is None


@pytest.mark.parametrize("name", known("datagen.filters"))
def test_every_filter_keeps_the_contract(name: str) -> None:
    kind = lookup("datagen.filters", name)
    extra = {"held_out": ["nothing of this"]} if name == "held_out" else {}
    made = kind(kind.Settings(), **extra)
    rows = [candidate(n, instruction=f"What is the use of {word}?") for n, word in enumerate(["tin", "iron", "gold"])]
    result = made.apply(rows)
    assert [row.id for row in result.kept] == ["c0", "c1", "c2"]
    assert result.dropped == ()
    bad = candidate(9, "<b>\n###\nQ: ?", instruction="Nothing", generated="\nQ: ?")
    for drop in kind(kind.Settings(), **extra).apply([bad, *rows, bad]).dropped:
        assert drop.part == name
        assert drop.reason
        assert drop.span is not None
        assert drop.id == "c9"


def test_advisory_filters_flag_and_drop_nothing() -> None:
    rows = [candidate(1, "Three things:"), candidate(2)]
    chain = [("incomplete", Incomplete(Incomplete.Settings()))]
    outcome = apply_filters(chain, rows, frozenset({"incomplete"}))
    assert (len(outcome.kept), outcome.dropped, len(outcome.flags)) == (2, (), 1)
    gating = apply_filters(chain, rows)
    assert [(row.part, row.reason, row.outcome) for row in gating.decided] == [
        ("incomplete", "ends_in_colon", "dropped")
    ]


def test_item_75_shipped_heuristics_are_good_enough_to_gate() -> None:
    qualities = validate_heuristics(load_labelled())
    assert qualities.keys() == HEURISTICS.keys()
    assert advisory(qualities, ValidationSettings()) == {}
    # Known to be wrong, and told: the table is measured, not tuned to be perfect.
    assert qualities["incomplete"].missed == ("Turn it on",)
    assert qualities["incomplete"].precision == pytest.approx(12 / 13)


def test_item_75_a_poor_heuristic_becomes_advisory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEURISTICS, "runaway", lambda subject: incomplete(Subject("", ":")))  # type: ignore[attr-defined]
    reasons = advisory(validate_heuristics(load_labelled()), ValidationSettings())
    assert reasons.keys() == {"runaway"}
    assert "precision 53%" in reasons["runaway"]


def test_unusable_examples_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "examples.yaml"
    path.write_text("nonsense:\n  good: [a]")
    with pytest.raises(DataError, match="no heuristic"):
        load_labelled(path)
    path.write_text("echo:\n  good: [[1]]")
    with pytest.raises(DataError, match="neither a text"):
        load_labelled(path)


def test_pool_instructions_are_fit() -> None:
    assert unfit(Subject("Summarize the following text.")) is not None
    assert unfit(Subject("Summarize the following text: it rained.")) is None
