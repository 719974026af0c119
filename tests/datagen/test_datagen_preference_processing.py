"""Items 303-307: pairs from rankings, labels with sources, augmentation without leaks, problems found, quality."""

from __future__ import annotations

import dataclasses
import random
from collections import Counter

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rung.base.errors import DataError, SettingsError
from rung.datagen.preference_augment import PromptSplit, both_orders, is_augmented, leaks, verified_negatives
from rung.datagen.preference_checks import PROBLEMS, check_pairs
from rung.datagen.preference_labels import (
    HELPSTEER2_ATTRIBUTES,
    Label,
    from_code_ultra_feedback,
    from_helpsteer2,
    from_helpsteer2_preference,
    rankings,
)
from rung.datagen.preference_quality import Judgement, QualitySettings, agreement, balanced, length_bias
from rung.datagen.preference_quality import preference_quality as quality
from rung.datagen.preference_ranking import RankedAnswer, RankedSettings, Ranking, ranked_pair, ranked_pairs
from rung.records.types import PreferencePair, from_plain, to_plain


def ranking(scores, asked="Sort a list."):
    return Ranking(asked, tuple(RankedAnswer(f"answer {n}", s, "judge", f"m{n}") for n, s in enumerate(scores)))


def sides(made):
    return [(p.chosen_source, p.rejected_source) for p in made.pairs]


def pair(asked, chosen, rejected):
    return ranked_pair(Ranking(asked, ()), RankedAnswer(chosen, 2.0, "j", "c"), RankedAnswer(rejected, 1.0, "j", "r"))


# 303


def test_ten_ranked_answers_give_the_expected_pairs():
    scores = [3.0, 9.0, 1.0, 4.5, 7.0, 4.0, 10.0, 8.5, 2.5, 6.0]
    made = ranked_pairs([ranking(scores)], RankedSettings(max_per_prompt=5))
    # in order: m6 10, m1 9, m7 8.5, m4 7, m9 6, m3 4.5, m5 4, m0 3, m8 2.5, m2 1
    assert sides(made) == [("m6", "m2"), ("m7", "m4"), ("m9", "m3"), ("m8", "m2"), ("m6", "m1")]
    assert [p.metadata["margin"] for p in made.pairs] == [9.0, 1.5, 1.5, 1.5, 1.0]
    assert (made.pairs[0].chosen_margin, made.pairs[0].rejected_margin) == (10.0, 1.0)
    assert Counter(d.reason for d in made.dropped) == {"more_than_wanted": 2, "small_gap": 3}
    assert sides(ranked_pairs([ranking(scores)])) == sides(made)[:3]


def test_ties_give_no_pair():
    made = ranked_pairs([ranking([5.0, 5.0, 5.0])])
    assert made.pairs == ()
    assert {d.reason for d in made.dropped} == {"tie"}
    assert ranked_pairs([ranking([5.0])]).pairs == ()
    assert len(ranked_pairs([ranking([5.0, 5.2])]).pairs) == 1
    assert ranked_pairs([ranking([9.0, 5.0, 5.0, 1.0])], RankedSettings(min_gap=0)).dropped[0].reason == "tie"


def test_the_same_text_at_two_scores_makes_no_pair():
    rows = (RankedAnswer("Yes.", 5.0, "j", "a"), RankedAnswer(" yes ", 1.0, "j", "b"))
    assert [d.reason for d in ranked_pairs([Ranking("Is it?", rows)]).dropped] == ["same_text"]


@given(st.lists(st.integers(0, 6), max_size=9), st.randoms())
def test_order_of_input_changes_nothing_and_no_pair_is_upside_down(scores, shuffle):
    one = ranking([float(s) for s in scores])
    answers = list(one.answers)
    shuffle.shuffle(answers)
    made = ranked_pairs([one])
    assert made.pairs == ranked_pairs([dataclasses.replace(one, answers=tuple(answers))]).pairs
    assert len(made.pairs) <= 3
    assert all(p.chosen_margin > p.rejected_margin for p in made.pairs)
    assert len({p.id for p in made.pairs}) == len(made.pairs)


def test_pairs_are_records_that_training_reads():
    made = ranked_pairs([ranking([1.0, 5.0])]).pairs[0]
    assert from_plain(PreferencePair, to_plain(made)) == made
    assert made.prompt.endswith("Response:")


# 304

CODE = {
    "instruction": "Reverse a string.",
    "preference": "readability",
    "models": ["a", "b", "c"],
    "responses": [{"model": m, "response": f"def {m}(s): ..."} for m in "abc"],
    "annotations": [
        {"model": "c", "rating": "2", "rationale": "terse"},
        {"model": "a", "rating": "5", "rationale": "clear"},
        {"model": "b", "rating": "N/A", "rationale": ""},
    ],
}
STEER = {"prompt": "c#", "response": "A language.", "helpfulness": 3, "correctness": 4, "coherence": 4,
         "complexity": 2, "verbosity": 1}  # fmt: skip


def test_labels_match_those_made_by_hand_and_say_where_they_come_from():
    a, b, c = from_code_ultra_feedback(CODE)
    assert a.labels == {"code-readability": Label(5.0, 1, 5, "CodeUltraFeedback/gpt-3.5-turbo", "clear")}
    assert (b.labels["code-readability"].value, c.labels["code-readability"].value) == (None, 2.0)
    assert (a.author, c.response) == ("a", "def c(s): ...")
    steer = from_helpsteer2(STEER)
    assert steer.values(HELPSTEER2_ATTRIBUTES) == (3.0, 4.0, 4.0, 2.0, 1.0)
    assert {label.source for label in steer.labels.values()} == {"HelpSteer2/human"}
    assert steer.labels["verbosity"].share == 0.25


def test_a_missing_label_stays_missing():
    steer = from_helpsteer2({**STEER, "complexity": None})
    assert steer.values(("helpfulness", "complexity", "code-style")) == (3.0, None, None)
    ranked = rankings(from_code_ultra_feedback(CODE), {"code-readability": 1.0})
    assert ranked.num_unlabelled == 1
    assert [(r.source, r.score) for r in ranked.rankings[0].answers] == [("a", 4.0), ("c", 1.0)]
    made = ranked_pairs(ranked.rankings).pairs[0]
    assert made.metadata["label_source"] == ["CodeUltraFeedback/gpt-3.5-turbo"]
    assert made.metadata["margin"] == 3.0


def test_attributes_are_weighed_in_shares_of_their_scales():
    plain = from_helpsteer2(STEER)
    wordy = from_helpsteer2({**STEER, "response": "A language, " * 9, "helpfulness": 4, "verbosity": 4})
    by_help = rankings([plain, wordy], {"helpfulness": 1.0}).rankings[0]
    assert [answer.score for answer in by_help.answers] == [3.0, 4.0]
    less_words = rankings([plain, wordy], {"helpfulness": 0.65, "verbosity": -0.35}).rankings[0]
    assert [answer.score for answer in less_words.answers] == pytest.approx([1.6, 1.2])
    with pytest.raises(SettingsError, match="needs a weight"):
        rankings([plain], {"helpfulness": 0.0})


@pytest.mark.parametrize(("strength", "chosen"), [(-3, "one"), (2, "two"), (0, None)])
def test_published_preferences_keep_their_strength(strength, chosen):
    record = {"prompt": "c#", "response_1": "one", "response_2": "two", "preference_strength": strength}
    made = ranked_pairs([from_helpsteer2_preference(record)]).pairs
    assert [p.chosen for p in made] == ([chosen] if chosen else [])
    assert [p.metadata["margin"] for p in made] == ([abs(strength)] if chosen else [])


@pytest.mark.parametrize(
    ("reader", "record", "place"),
    [
        (from_helpsteer2, {**STEER, "helpfulness": 5}, "row 7.helpfulness"),
        (from_helpsteer2, {**STEER, "coherence": True}, "row 7.coherence"),
        (from_helpsteer2, {**STEER, "coherence": float("nan")}, "row 7.coherence"),
        (from_helpsteer2, {"prompt": "c#"}, "row 7"),
        (from_code_ultra_feedback, {**CODE, "annotations": [{"model": "a", "rating": "6"}]}, "row 7.annotations.a"),
        (from_code_ultra_feedback, {**CODE, "responses": CODE["responses"] * 2}, "row 7"),
        (from_code_ultra_feedback, {**CODE, "annotations": "none"}, "row 7"),
        (from_helpsteer2_preference, {"prompt": "c#", "response_1": "a", "response_2": "b"}, "row 7"),
    ],
)
def test_broken_records_are_refused_with_their_place(reader, record, place):
    with pytest.raises(DataError) as caught:
        reader(record, "row 7")
    assert caught.value.place == place


# 305

MANY = [pair(f"What is {n} + 1?", f"{n + 1}", f"{n + 2}") for n in range(200)]


def solves(asked, text):
    return text == str(int(asked.split()[2]) + 1) if text.isdigit() else None


def test_swapped_pairs_keep_their_preference_are_marked_and_stay_out_of_test():
    split = PromptSplit(test_share=0.2)
    made = both_orders(MANY, split)
    by_id = {p.id: p for p in MANY}
    for one in made:
        assert (one.first, one.second)[one.preferred - 1] == by_id[one.pair_id].chosen
        assert {one.first, one.second} == {by_id[one.pair_id].chosen, by_id[one.pair_id].rejected}
    swapped = [one for one in made if one.augmented]
    num_test = sum(split.is_test(p.instruction) for p in MANY)
    assert 20 < num_test < 60
    assert len(swapped) == len(MANY) - num_test
    assert not any(split.is_test(one.instruction) for one in swapped)
    assert 60 < sum(one.preferred == 1 for one in made if not one.augmented) < 140
    assert len({one.id for one in made}) == len(made)


def test_negatives_are_added_only_when_proved_wrong():
    split = PromptSplit(test_share=0.2)
    wrong_by = {0: 5, 1: 0, 2: None}

    def mutate(one):
        n = int(one.instruction.split()[2])
        step = wrong_by[n % 3]
        return None if step is None else f"00{n + 1 + step}"

    made = verified_negatives(MANY, mutate, lambda asked, text: solves(asked, text.lstrip("0")), split)
    assert {int(p.instruction.split()[2]) % 3 for p in made.pairs} == {0}
    assert all(is_augmented(p) and p.metadata["augmented_from"] in {q.id for q in MANY} for p in made.pairs)
    assert all(solves(p.instruction, p.chosen) and p.rejected_margin is None for p in made.pairs)
    assert not any(split.is_test(p.instruction) for p in made.pairs)
    assert {d.reason for d in made.dropped} == {"held_out", "not_mutated", "still_right"}
    train, test = split.parted([*MANY, *made.pairs])
    assert len(train) + len(test) == len(MANY) + len(made.pairs)
    assert leaks(train, test) == []


def test_what_cannot_be_proved_is_left_out():
    none = PromptSplit(test_share=0.0)
    wrong_chosen = verified_negatives([pair("What is 1 + 1?", "3", "4")], lambda p: "9", solves, none)
    undecided = verified_negatives(MANY[:1], lambda p: "many", solves, none)
    same = verified_negatives(MANY[:1], lambda p: p.chosen + " ", solves, none)
    reasons = [made.dropped[0].reason for made in (wrong_chosen, undecided, same)]
    assert reasons == ["chosen_not_verified", "undecided", "same_text"]


def test_a_leak_is_named():
    split = PromptSplit(test_share=0.2)
    held_out = next(p for p in MANY if split.is_test(p.instruction))
    marked = dataclasses.replace(held_out, metadata={"augmented": "order"})
    assert leaks([], [marked]) == [held_out.id]
    assert leaks([dataclasses.replace(held_out, instruction=held_out.instruction.upper())], [held_out])
    with pytest.raises(DataError, match=held_out.id):
        split.parted([*MANY, marked])


def test_a_prompt_lies_on_one_side_however_it_is_written():
    split = PromptSplit(test_share=0.5)
    for one in MANY:
        assert split.is_test(one.instruction) == split.is_test(f"  {one.instruction.upper()} ")
    assert any(PromptSplit(test_share=0.5, salt=1).is_test(p.instruction) != split.is_test(p.instruction) for p in MANY)


# 306


def test_equal_empty_contradicting_and_cyclic_pairs_are_found():
    good, other = pair("p", "a", "b"), pair("q", "b", "a")
    empty, equal = pair("p", "a", " \n"), pair("p", "x  y", "x y")
    contra = [pair("r", "a", "b"), pair("r", "b", "a"), pair("r", "a", "c")]
    ring = [pair("s", "a", "b"), pair("s", "b", "c"), pair("s", "c", "a"), pair("s", "a", "d")]
    rows = [good, empty, other, *contra, equal, *ring, pair("P!", "a", "b")]
    found = check_pairs(rows)
    reasons = {d.id: d.reason for d in found.dropped}
    assert reasons[empty.id] == "empty"
    assert reasons[equal.id] == "equal"
    assert [reasons.get(p.id) for p in contra] == ["contradicting", "contradicting", None]
    assert [reasons.get(p.id) for p in ring] == ["cyclic", "cyclic", "cyclic", None]
    assert reasons[rows[-1].id] == "repeat"
    assert found.counts == dict(zip(PROBLEMS, (1, 1, 1, 2, 3), strict=True))
    assert found.kept == (good, other, contra[2], ring[3])
    with_ring = next(d for d in found.dropped if d.id == ring[0].id)
    assert set(with_ring.detail["with"]) == {ring[1].id, ring[2].id}
    assert check_pairs(found.kept).dropped == ()


@given(st.lists(st.tuples(st.integers(0, 5), st.integers(0, 5)), max_size=14))
def test_what_is_kept_can_be_ranked(arrows):
    """No ring is left: every kept set has an order that agrees with all its pairs."""
    kept = check_pairs([pair("p", f"t{a}", f"t{b}") for a, b in arrows]).kept
    left, edges = {t for p in kept for t in (p.chosen, p.rejected)}, [(p.chosen, p.rejected) for p in kept]
    while left:
        tops = {t for t in left if not any(b == t and a in left for a, b in edges)}
        assert tops
        left -= tops


def test_pairs_outside_every_ring_are_all_kept():
    line = [pair("p", f"t{n}", f"t{m}") for n in range(6) for m in range(n + 1, 6)]
    assert check_pairs(line).kept == tuple(line)


# 307


def test_agreement_is_beyond_chance():
    """The hand value of Cohen's table: 45/15/25/15 of 100, kappa 0.13."""
    table = {("first", "first"): 45, ("first", "second"): 15, ("second", "first"): 25, ("second", "second"): 15}
    rows = [Judgement(f"p{n}", *said) for n, said in enumerate(s for s, count in table.items() for _ in range(count))]
    found = agreement(rows)
    assert (found.observed, found.expected) == pytest.approx((0.6, 0.54))
    assert found.kappa == pytest.approx(0.1304, abs=1e-4)
    assert found.low < 0 < found.kappa < found.high < 0.4
    assert agreement([Judgement(f"p{n}", "tie", "tie") for n in range(9)]).kappa == 1.0
    with pytest.raises(DataError, match="two labellers"):
        agreement([])


def test_pairs_of_one_prompt_fall_together():
    rng = random.Random(0)
    said = ["first", "second", "tie"]
    rows = [Judgement(f"p{n}", rng.choice(said), rng.choice(said)) for n in range(40)]
    wide, narrow = agreement(rows), agreement([dataclasses.replace(r, instruction=f"{r.instruction}-{n}")
                                               for n in range(9) for r in rows])  # fmt: skip
    often = agreement([r for r in rows for _ in range(9)])
    assert (often.low, often.high) == (wide.low, wide.high)
    assert narrow.high - narrow.low < (wide.high - wide.low) / 2


def worded(n, chosen, rejected):
    return pair(f"prompt {n}", "a " * chosen + f"x{n}", "b " * rejected + f"y{n}")


def test_length_bias_is_seen_and_is_that_of_both_orders():
    rng = random.Random(3)
    lengths = [(rng.randint(1, 40), rng.randint(1, 40)) for _ in range(60)]
    rows = [worded(n, max(two), min(two)) if n % 4 else worded(n, *two) for n, two in enumerate(lengths)]
    found = length_bias(rows)
    gaps = np.array([len(p.chosen.split()) - len(p.rejected.split()) for p in rows])
    both = np.corrcoef(np.r_[np.ones(60), -np.ones(60)], np.r_[gaps, -gaps])[0, 1]
    assert found.correlation == pytest.approx(both)
    assert 0.4 < found.low < found.correlation < found.high <= 1
    assert found.longer_low < found.longer_share < found.longer_high
    report = quality(rows)
    assert report.warnings == (
        f"the longer answer tends to be preferred (correlation {both:.2f})",
        "no pair was labelled twice: agreement is unknown",
    )
    assert length_bias([worded(1, 3, 3)]).correlation is None


def test_balance_takes_length_out_of_the_labels_the_same_way_every_time():
    rng = random.Random(5)
    rows = [worded(n, rng.randint(5, 40), rng.randint(1, 20)) for n in range(80)]
    made = balanced(rows)
    assert abs(length_bias(rows).correlation) > 0.5
    assert abs(length_bias(made.kept).correlation) <= 0.1
    assert len(made.kept) + len(made.dropped) == 80
    assert len(made.kept) >= 30
    assert all(d.detail["gap"] > 0 and d.reason == "follows_length" for d in made.dropped)
    assert [p.id for p in made.kept] == [p.id for p in rows if p in made.kept]
    assert {p.id for p in balanced(rows[::-1]).kept} == {p.id for p in made.kept}
    assert balanced(made.kept).dropped == ()


def test_balance_leaves_what_is_balanced_and_works_for_short_winners():
    even = [worded(0, 9, 2), worded(1, 2, 9), worded(2, 4, 4)]
    assert balanced(even).kept == tuple(even)
    short = [worded(n, 1, 5 + n) for n in range(6)] + [worded(9, 9, 2)]
    assert length_bias(balanced(short, QualitySettings(max_length_correlation=0.5)).kept).correlation >= -0.5


def test_good_preferences_carry_no_warning():
    rows = [worded(n, 9, 2) if n % 2 else worded(n, 2, 9) for n in range(30)]
    said = [Judgement(f"p{n}", *(("first", "first") if n % 2 else ("second", "second"))) for n in range(30)]
    assert quality(rows, said).warnings == ()
    poor = quality(rows, [dataclasses.replace(j, other="first") for j in said]).warnings
    assert len(poor) == 1
    assert "kappa 0.00" in poor[0]
