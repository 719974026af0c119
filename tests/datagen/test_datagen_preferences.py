"""Preference pairs and hard negatives: items 138-145, without a model."""

from __future__ import annotations

import ast
import dataclasses
from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from datagen_builders import candidate, critique

import rung
from rung.base.errors import DataError, SettingsError
from rung.base.lookup import part
from rung.base.settings import validate
from rung.datagen.assemble import choose, sft_record
from rung.datagen.generators.hard_negatives import HardNegatives
from rung.datagen.negatives import (
    KINDS,
    Lent,
    MadeNegatives,
    NegativeSettings,
    check_negatives,
    make_negatives,
    quotas,
)
from rung.datagen.pool import load_pool
from rung.datagen.preferences import LengthSettings, PairSettings, best_of_n, lengths, pair_figures
from rung.evaluate.item_set import overlap
from rung.evaluate.suites.instruction_following import InstructionFollowing
from rung.records.contracts import Item, Request, Score, Trace
from rung.records.scripted import Scripted
from rung.records.shards import read_shard, write_shard
from rung.records.types import Candidate, PreferencePair, SftRecord
from rung.scoring.checks import Checks
from rung.scoring.verifiers.safe_completion import SafeCompletion

META = {"loader_version": "1", "model_name": "m", "git_commit": "c" * 40}
REFUSALS = SafeCompletion(SafeCompletion.Settings(stance="help"))


def siblings(number: int, margins: list[float], texts: list[str] | None = None) -> list[Candidate]:
    """Candidates of one instruction, decided by the house's own choice."""
    made = []
    for n, margin in enumerate(margins):
        made.append(
            candidate(
                number, (texts or [])[n] if texts else f"Answer {n} of thing {number}.", id=f"c{number}-{n}",
                pair_critique=critique(good=margin > 0, confident=abs(margin) >= 1, margin=abs(margin)),
                outcome="generated",
            )
        )  # fmt: skip
    return choose(made)


def record_of(candidates: list[Candidate]) -> SftRecord:
    kept = next(one for one in candidates if one.outcome == "kept")
    return sft_record(kept, [one for one in candidates if one.id != kept.id], META)


def test_items_138_139_the_best_of_four_makes_three_pairs() -> None:
    made = siblings(1, [1.5, 4.0, -2.0, 2.5])
    paired = best_of_n([record_of(made)], made, PairSettings())
    assert [pair.rejected_source for pair in paired.pairs] == ["c1-2", "c1-0", "c1-3"]
    assert {pair.chosen for pair in paired.pairs} == {"Answer 1 of thing 1."}
    for pair in paired.pairs:
        assert pair.chosen_margin == 4.0 > pair.rejected_margin
        assert (pair.chosen_critic, pair.rejected_critic, pair.kind) == ("choice", "choice", "best_of_n")
        assert pair.prompt.endswith("Response:")
        assert pair.num_chosen_tokens == pair.num_rejected_tokens == 5
        assert {**META, "seed": 1}.items() <= pair.metadata.items()
    assert paired.dropped == ()


def test_pairs_are_whole_on_disk(tmp_path: Path) -> None:
    made = siblings(1, [1.5, 4.0])
    pairs = best_of_n([record_of(made)], made, PairSettings()).pairs
    info = write_shard(tmp_path, "pair-0000.jsonl.zst", "pair", pairs)
    back = list(read_shard(tmp_path, info))
    assert [dataclasses.replace(one, metadata={}) for one in back] == [
        dataclasses.replace(one, metadata={}) for one in pairs
    ]
    fields = set(PreferencePair.__dataclass_fields__)
    assert {"chosen_margin", "rejected_margin", "chosen_source", "rejected_source", "kind"} <= fields


def test_item_145_a_records_own_rejects_make_the_same_pairs_without_candidates() -> None:
    made = siblings(1, [1.5, 4.0, -2.0])
    from_candidates = best_of_n([record_of(made)], made, PairSettings()).pairs
    from_record = best_of_n([record_of(made)], [], PairSettings()).pairs
    assert [pair.id for pair in from_record] == [pair.id for pair in from_candidates]
    assert [pair.rejected_margin for pair in from_record] == [-2.0, 1.5]
    assert all(pair.chosen_source == record_of(made).id for pair in (*from_candidates, *from_record))


def test_margins_are_the_numbers_that_decided_wherever_the_siblings_come_from() -> None:
    """A discounted margin (`decision`) is what a critic ranks by; the plain one stands beside it."""
    made = [
        dataclasses.replace(
            one, pair_critique=dataclasses.replace(one.pair_critique, decision=one.pair_critique.signed_margin - 0.5)
        )
        for one in siblings(1, [1.5, 4.0])
        if one.pair_critique is not None
    ]
    for candidates in (made, []):
        (pair,) = best_of_n([record_of(made)], candidates, PairSettings()).pairs
        assert (pair.chosen_margin, pair.rejected_margin) == (3.5, 1.0)


def test_item_143_pairs_that_the_critic_hardly_tells_apart_are_left_out_and_counted() -> None:
    made = siblings(1, [4.0, 3.5, 3.2, 2.0, -1.0])
    paired = best_of_n([record_of(made)], made, PairSettings(min_gap=1.0))
    assert [pair.rejected_margin for pair in paired.pairs] == [-1.0, 2.0]
    assert [(drop.reason, drop.detail["margin"]) for drop in paired.dropped] == [
        ("low_confidence", 3.5),
        ("low_confidence", 3.2),
    ]
    figures = pair_figures(paired.pairs, [drop.reason for drop in paired.dropped], LengthSettings())
    assert figures.drops == {"low_confidence": 2}
    assert figures.median_gap == 3.5


def test_equal_texts_and_unjudged_siblings_make_no_pair_and_say_why() -> None:
    made = siblings(1, [4.0, 4.0, -2.0, -2.0, 1.0], ["Good.", "Good.", "Bad.", "Bad.", "Fine."])
    filtered = candidate(1, "Broken", id="c1-9", pair_critique=None, outcome="dropped")
    paired = best_of_n([record_of(made)], [*made, filtered], PairSettings())
    assert [pair.rejected for pair in paired.pairs] == ["Bad.", "Fine."]
    assert Counter(drop.reason for drop in paired.dropped) == {"same_text": 1, "repeat": 1, "not_judged": 1}


def test_equal_margins_are_no_preference_and_siblings_of_other_shards_are_none() -> None:
    made = siblings(1, [4.0, 4.0, 1.0])
    elsewhere = [dataclasses.replace(one, id=f"{one.id}x", shard=1, response=f"{one.response}x") for one in made]
    paired = best_of_n([record_of(made)], [*made, *elsewhere], PairSettings(min_gap=0.0))
    assert [pair.rejected_margin for pair in paired.pairs] == [1.0]
    assert [drop.reason for drop in paired.dropped] == ["not_better"]


def test_the_widest_pairs_stay_where_only_some_are_wanted() -> None:
    made = siblings(1, [5.0, 1.0, -3.0, 2.0])
    paired = best_of_n([record_of(made)], made, PairSettings(max_per_chosen=2))
    assert [pair.rejected_margin for pair in paired.pairs] == [-3.0, 1.0]
    assert [drop.reason for drop in paired.dropped] == ["more_than_wanted"]


def test_item_144_both_medians_are_there_and_a_drift_is_warned_about() -> None:
    made = siblings(1, [4.0, 1.0, -2.0], ["Short answer.", "word " * 6, "word " * 10])
    pairs = best_of_n([record_of(made)], made, PairSettings()).pairs
    found = lengths(pairs, LengthSettings(warn_ratio=1.5))
    assert (found.median_chosen, found.median_rejected, found.ratio) == (2.0, 8.0, 4.0)
    assert "rejected responses are 4.00 times" in found.warning
    assert lengths(pairs, LengthSettings(warn_ratio=5.0)).warning == ""
    assert lengths([], LengthSettings()).num_pairs == 0


RECORDS = [
    dataclasses.replace(
        record_of(siblings(n, [4.0], [f"The capital of land {n} is city {n}."])),
        id=f"r{n}", instruction=f"What is the capital of land {n}?", type="safety" if n % 10 == 0 else "factual",
    )
    for n in range(60)
]  # fmt: skip
BY_ID = {record.id: record for record in RECORDS}


def written(request: Request) -> str:
    """A model that writes what it is asked for; the kind is in the request's id."""
    kind, _, name = request.id.rpartition("-")
    number = name[1:]
    return {
        "unwarranted_refusal": f" I cannot talk about land {number}.",
        "format_violation": f" 1. land {number}\n2. its capital city {number}",
        "wrong_fact": f" It is village {int(number) + 500}.",
        "off_topic": f" My bicycle has {number} red bells.",
        "verbose": f" Let me think. The capital of land {number} is, as many people know, the old city {number}.",
    }[kind] + "\n###END###"


def generator(answer: Any = written, **settings: Any) -> HardNegatives:
    return HardNegatives(HardNegatives.Settings(**settings), completer=Scripted(answer))


def lent(**values: Any) -> Lent:
    return Lent(**{"count_tokens": Scripted([]).count_tokens, "refusals": REFUSALS, "verifier": Checks(), **values})


def make(answer: Any = written, lend: Lent | None = None, **settings: Any) -> MadeNegatives:
    return make_negatives(generator(answer), RECORDS, lend or lent(), NegativeSettings(**settings), seed=1)


def test_item_140_all_kinds_are_there_in_their_shares() -> None:
    made = make()
    assert made.shortfall == {}
    pairs = made.pairs(BY_ID)
    figures = pair_figures(pairs, [], LengthSettings())
    assert figures.num_pairs == 60
    assert figures.kinds == {
        "unwarranted_refusal": 18, "format_violation": 15, "wrong_fact": 12, "off_topic": 9, "verbose": 6,
    }  # fmt: skip
    assert figures.shares["verbose"] == pytest.approx(0.1)
    assert all(pair.chosen == BY_ID[pair.chosen_source].response != pair.rejected for pair in pairs)
    assert all(pair.metadata["negative_seed"] for pair in pairs)


def test_quotas_add_up() -> None:
    assert quotas({"a": 0.5, "b": 0.3, "c": 0.2}, 7) == {"a": 4, "b": 2, "c": 1}
    assert quotas({"a": 1, "b": 1, "c": 1}, 2) == {"a": 1, "b": 1, "c": 0}


def test_a_model_that_seldom_obliges_is_asked_again_and_a_shortfall_is_stated() -> None:
    rounds: list[int] = []

    def seldom(request: Request) -> str:
        return written(request) if request.seed % 3 == 0 else ""

    made = make_negatives(
        generator(seldom), RECORDS, lent(), NegativeSettings(max_rounds=12), seed=1,
        between_rounds=lambda so_far: rounds.append(len(so_far.kept())),
    )  # fmt: skip
    assert made.shortfall == {}
    assert len(rounds) > 1
    assert rounds == sorted(rounds)
    assert {one.reason for one in made.candidates if one.outcome == "dropped"} == {"empty"}
    never = make(lambda request: " I cannot do that.", max_rounds=2)
    assert set(never.shortfall) == set(KINDS) - {"unwarranted_refusal"}
    assert {one.reason for one in never.candidates if one.source == "off_topic"} == {"refuses"}


def test_equal_seeds_give_equal_negatives_whatever_else_is_asked() -> None:
    one, two = make(), make()
    assert one.candidates == two.candidates
    alone = generator().generate([(RECORDS[3], "off_topic")], 5).candidates[0]
    among = generator().generate([(RECORDS[2], "verbose"), (RECORDS[3], "off_topic")], 5).candidates[1]
    assert alone == among


def test_prompts_show_examples_of_the_way_and_end_in_the_frame() -> None:
    completer = Scripted(written)
    HardNegatives(HardNegatives.Settings(), completer=completer).generate([(RECORDS[1], "wrong_fact")], 0)
    (request,) = completer.requests
    assert request.text.startswith("A false assistant.")
    assert request.text.endswith(f"Instruction: {RECORDS[1].instruction}\nResponse:")
    shown = [entry for entry in load_pool("hard_negatives").of_type("wrong_fact") if entry.response in request.text]
    assert len(shown) == 4
    with pytest.raises(DataError, match="no type 'sarcasm'"):
        generator().generate([(RECORDS[1], "sarcasm")], 0)


def test_safety_instructions_are_never_refused_as_a_fault() -> None:
    refused = [one for one in make().candidates if one.source == "unwarranted_refusal"]
    assert refused
    assert all(BY_ID[one.instruction_id].type != "safety" for one in refused)


def decided(kind: str, text: str, record: SftRecord = RECORDS[7], lend: Lent | None = None, **values: Any) -> str:
    """The reason that a negative is dropped for; empty when it is kept."""
    one = candidate(
        1, text, id="n", source=kind, instruction_id=record.id, instruction=record.instruction, pair_critique=None,
        outcome="generated", **values,
    )  # fmt: skip
    (found,) = check_negatives([one], {record.id: record}, lend or lent(), NegativeSettings())
    assert found.outcome == ("dropped" if found.reason else "kept")
    return found.reason


@pytest.mark.parametrize(
    ("kind", "text", "reason"),
    [
        ("wrong_fact", "", "empty"),
        ("wrong_fact", " ... ", "empty"),
        ("wrong_fact", "The capital of land 7 is city 7.", "equals_chosen"),
        ("off_topic", "the capital of land 7 is CITY 7", "equals_chosen"),
        ("wrong_fact", "Yes: the capital of land 7 is city 7, I think.", "holds_the_chosen_answer"),
        ("wrong_fact", "It is city 9.", ""),
        ("wrong_fact", "I cannot say.", "refuses"),
        ("unwarranted_refusal", "It is city 9.", "does_not_refuse"),
        ("unwarranted_refusal", "I'm sorry, but I can't speak of land 7.", ""),
        ("format_violation", "The capital of this land is town 8.", "keeps_the_form"),
        ("format_violation", "- Apples\n- Pears", "off_the_topic"),
        ("format_violation", "- The capital\n- of land 7", ""),
        ("off_topic", "The capital of a land is a large city.", "on_the_topic"),
        ("off_topic", "My socks are green.", ""),
        ("verbose", "It is, I believe, city 7.", "not_longer"),
        ("verbose", "word " * 20, ""),
    ],
)
def test_item_141_a_negative_must_be_bad_in_its_own_way(kind: str, text: str, reason: str) -> None:
    assert decided(kind, text) == reason


def test_item_141_what_a_verifier_calls_right_is_no_negative() -> None:
    checks = {"contains": {"groups": ["city 7"]}}
    gated = dataclasses.replace(RECORDS[7], metadata={**RECORDS[7].metadata, "checks": checks})
    assert decided("wrong_fact", "Everybody knows that it is City 7!", gated) == "verifier_says_right"
    assert decided("wrong_fact", "Everybody knows that it is City 7!", gated, lent(verifier=None)) == ""
    assert decided("wrong_fact", "It is city 9.", gated) == ""
    assert decided("verbose", "city 7 " + "word " * 30, gated) == "", "its length is what is wrong with it"


def test_cut_and_copied_texts_are_no_negatives() -> None:
    assert decided("off_topic", "My socks are green", finish_reason="length") == "cut_off"
    prompt = "Instruction: a?\nResponse: The bus leaves every ten minutes.\n###END###\n\nInstruction: b?\nResponse:"
    assert decided("off_topic", "the bus leaves every ten minutes", prompt=prompt) == "copies_example"


class Critic:
    """Ranks every response at one margin."""

    def __init__(self, margin: float) -> None:
        self.margin = margin

    def critique(self, items: list[Item], traces: list[Trace]) -> list[Any]:
        return [critique(good=self.margin > 0, margin=abs(self.margin), critic="planted") for _ in items]


@pytest.mark.parametrize(("margin", "reason"), [(5.0, "critic_prefers_it"), (3.95, "low_confidence"), (-1.0, "")])
def test_a_critic_has_the_last_word_on_which_is_better(margin: float, reason: str) -> None:
    assert decided("wrong_fact", "It is city 9.", lend=lent(critic=Critic(margin))) == reason


def test_a_judged_negative_carries_both_margins_and_critics() -> None:
    made = make(lend=lent(critic=Critic(-1.0)))
    pair = made.pairs(BY_ID)[0]
    assert (pair.chosen_margin, pair.rejected_margin) == (4.0, -1.0)
    assert (pair.chosen_critic, pair.rejected_critic) == ("choice", "planted")
    assert make().pairs(BY_ID)[0].rejected_margin is None


def test_broken_texts_are_dropped_by_the_lent_filters() -> None:
    kind, own = part("datagen.filters", "repetition")
    looped = "Socks are green. Socks are green. Socks are green."
    assert decided("off_topic", looped, lend=lent(filters=[("repetition", kind(own))])) not in ("", "on_the_topic")
    assert decided("off_topic", looped) == ""


def test_pairs_that_exist_already_are_not_made_again() -> None:
    first = make().kept()[0]
    again = make_negatives(
        generator(), RECORDS, lent(), NegativeSettings(), seed=1, known={(first.instruction_id, first.response)}
    )
    assert {one.id: one.reason for one in again.candidates}[first.id] == "repeat"


@pytest.mark.parametrize("shares", [{"sarcasm": 1.0}, {"verbose": 0.0}, {"verbose": -1.0, "off_topic": 2.0}, {}])
def test_impossible_shares_are_refused(shares: dict[str, float]) -> None:
    with pytest.raises(SettingsError):
        validate(NegativeSettings, {"shares": shares}, "pairs.negatives")


def literals() -> set[str]:
    """Every string of the source that is long enough to be an answer."""
    found = set()
    for path in Path(rung.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Constant) and isinstance(node.value, str) and len(node.value.split()) > 2:
                found.add(node.value.strip())
    return found


def test_item_142_no_text_of_a_pair_is_written_in_the_source() -> None:
    made = siblings(1, [1.5, 4.0, -2.0])
    pairs = [*best_of_n([record_of(made)], made, PairSettings()).pairs, *make().pairs(BY_ID)]
    canned = literals() | {entry.response for entry in load_pool("hard_negatives").examples}
    assert len(canned) > 500
    for pair in pairs:
        assert pair.chosen not in canned
        assert pair.rejected not in canned
    shown = load_pool("hard_negatives").of_type("off_topic")[0].response
    copied = make(lambda request: f" {shown}\n###END###", max_rounds=1)
    assert not [one for one in copied.kept() if shown in one.prompt], "an example that was shown never becomes data"


def test_the_examples_cover_every_kind_and_keep_clear_of_the_held_out_suite() -> None:
    pool = load_pool("hard_negatives")
    assert set(pool.types) == set(KINDS)
    assert min(len(pool.of_type(kind)) for kind in KINDS) >= 4
    items = InstructionFollowing(InstructionFollowing.Settings()).items()
    assert overlap(items, [example.instruction for example in pool.examples]) == []
    for example in pool.of_type("unwarranted_refusal"):
        item = Item("i", example.instruction)
        assert REFUSALS.score([item], [Trace("i", example.response)]) == [Score(0.0, "opens with a refusal")]
