"""Quality control: items 55-79 and 106, 112-113 on records, with the two fixtures of known figures."""

from __future__ import annotations

import dataclasses
import json
import re
from pathlib import Path

import numpy as np
import pytest
from datagen_builders import candidate, critique, instruction, rejected

from rung.base.errors import DataError, SettingsError
from rung.base.fingerprint import plain
from rung.datagen.assemble import choose, count_tokens, sft_record
from rung.datagen.findings import Subject
from rung.datagen.heuristics import runaway
from rung.datagen.merge import Shard, blame, merge, shard_sizes
from rung.datagen.progress import ProgressiveQc, ProgressiveQcSettings
from rung.datagen.qc import QcFigures, Thresholds, decide, figures, flags
from rung.datagen.qc_report import Pilot, compare_pilots, pool_effect, summary
from rung.records.scripted import Scripted
from rung.records.types import Candidate, Instruction, from_plain

FIXTURES = Path(__file__).parent / "fixtures"


def read(name: str, kind: type | None = None) -> list:
    rows = [json.loads(line) for line in (FIXTURES / name).read_text(encoding="utf-8").splitlines()]
    return [from_plain(kind, row) for row in rows] if kind else rows


def judged(num: int) -> list[Instruction]:
    return [instruction(n, critique=critique()) for n in range(num)]


def found_of(candidates: list[Candidate], num_instructions: int = 100) -> QcFigures:
    return figures(judged(num_instructions), candidates)


def failed(candidates: list[Candidate], **thresholds: float) -> set[str]:
    limits = Thresholds(**thresholds)
    return {f.threshold for f in decide(figures(judged(50), candidates, thresholds=limits), limits).failed}


def old_rule(text: str) -> bool:
    """The rule of an earlier system, here for comparison only."""
    return len(text) > 200 or len(re.findall(r"[.!?](?:\s|$)", text)) > 3


def test_item_58_the_old_rule_flags_14_of_30_and_ours_none() -> None:
    rows = read("item58.jsonl")
    assert len(rows) == 30
    assert sum(old_rule(row["response"]) for row in rows) == 14
    candidates = [candidate(n, row["response"], instruction=row["instruction"]) for n, row in enumerate(rows)]
    found = found_of(candidates)
    assert (found.runaway.count, found.runaway.total) == (0, 30)
    assert not {"max_runaway_rate"} & {f.threshold for f in decide(found, Thresholds()).failed}


def test_item_57_a_471_character_explanation_passes() -> None:
    text = next(row["response"] for row in read("item58.jsonl") if len(row["response"]) == 471)
    assert old_rule(text)
    assert runaway(Subject("", text)) is None


def test_item_65_known_figures() -> None:
    candidates = read("item65_candidates.jsonl", Candidate)
    recounted = count_tokens(candidates, Scripted([]).count_tokens)
    assert recounted == candidates
    found = figures(read("item65_instructions.jsonl", Instruction), recounted)
    verdict = decide(found, Thresholds())
    told = summary(found, Thresholds(), verdict)
    assert (told["counts"]["judged"], told["counts"]["kept"], told["counts"]["hit_token_limit"]) == (39, 30, 3)
    assert f"{told['acceptance']['pairs']['rate']:.1%}" == "76.9%"
    assert f"{told['rates']['token_limit']['value']:.1%}" == "7.7%"
    assert told["token_stats"]["median"] == 29.5
    assert f"{told['rates']['runaway']['value']:.1%}" == "0.0%"
    assert told["rates"]["delimiter_leakage"]["count"] == 0
    assert told["acceptance"]["pairs"]["low_confidence"] == 2
    assert told["counts"]["delimiter_found"] == 36
    assert told["counts"]["heuristic_cutoff"] == 3
    assert told["thresholds_passed"] is True
    assert told["failed_reasons"] == []
    json.dumps(told, allow_nan=False)


@pytest.mark.parametrize(("hits", "fails"), [(9, False), (10, True)])
def test_item_60_limit_rate_is_strict_and_counts_raw_generations(hits: int, fails: bool) -> None:
    # Hits are on rejected candidates: the population is everything that was generated.
    rows = [candidate(n) for n in range(90)] + [rejected(90 + n, finish_reason="length") for n in range(hits)]
    rows += [rejected(190 + n) for n in range(10 - hits)]
    assert ("max_limit_rate" in failed(rows)) is fails


def test_item_61_tokens_decide_and_words_are_given_beside_them() -> None:
    response = " ".join(f"word{n}" for n in range(33)) + " end."
    rows = [candidate(n, response, num_response_tokens=57) for n in range(30)]
    verdict = decide(found_of(rows), Thresholds())
    (reason,) = verdict.reasons
    assert "57" in reason
    assert "34" in reason
    assert not decide(found_of([dataclasses.replace(r, num_response_tokens=39) for r in rows]), Thresholds()).failed
    assert "max_median_tokens" in failed([dataclasses.replace(r, num_response_tokens=40) for r in rows])


def test_tokens_must_be_counted() -> None:
    with pytest.raises(DataError, match="c3"):
        figures([], [candidate(3, num_response_tokens=-1)])


@pytest.mark.parametrize("ending", ["\n###END###", " ###", "###"])
def test_item_62_a_leak_fails_with_its_id(ending: str) -> None:
    rows = [candidate(n) for n in range(99)] + [candidate(99, f"Fine.{ending}")]
    verdict = decide(found_of(rows), Thresholds())
    assert any("c99" in reason and "max_leaks" in reason for reason in verdict.reasons)


@pytest.mark.parametrize(("kept", "fails"), [(50, False), (49, True)])
def test_item_63_acceptance_is_kept_over_judged(kept: int, fails: bool) -> None:
    rows = [candidate(n) for n in range(kept)] + [rejected(n) for n in range(kept, 100)]
    assert ("min_pair_acceptance" in failed(rows)) is fails
    instructions = [instruction(n, critique=critique(good=n < kept)) for n in range(100)]
    names = {f.threshold for f in decide(figures(instructions, rows), Thresholds()).failed}
    assert ("min_instruction_acceptance" in names) is fails


def test_good_but_not_confident_is_no_acceptance() -> None:
    unsure = critique(good=True, confident=False, margin=0.4)
    rows = [candidate(n, pair_critique=unsure, outcome="rejected", part="choice") for n in range(10)]
    found = found_of(rows)
    assert (found.pair_acceptance.good, found.pair_acceptance.low_confidence, found.pair_acceptance.bad) == (0, 10, 0)
    assert found.pair_acceptance.rate.value == 0.0


@pytest.mark.parametrize(("runaways", "fails"), [(4, False), (5, True)])
def test_item_64_runaway_limit_is_strict(runaways: int, fails: bool) -> None:
    rows = [candidate(n) for n in range(100 - runaways)]
    rows += [candidate(200 + n, "Good.\nQ: what next?") for n in range(runaways)]
    assert ("max_runaway_rate" in failed(rows)) is fails
    assert ("max_runaway_rate" in failed(rows, max_runaway_rate=0.5)) is False


def test_a_filter_that_drops_runaways_does_not_hide_their_rate() -> None:
    rows = [candidate(n) for n in range(80)]
    rows += [candidate(200 + n, "Good.\nQ: next?", outcome="dropped", part="runaway") for n in range(20)]
    found = found_of(rows)
    assert found.runaway_kept.count == 0
    assert found.runaway.count == 20
    cleaned = [candidate(n, "Good.", generated="Good.\n\nQuestion: next?") for n in range(10)]
    assert figures([], cleaned).runaway_before_cleaning.count == 10


def test_thresholds_are_written_once() -> None:
    source = Path(__file__).parents[2] / "src" / "rung" / "datagen"
    places = {}
    for path in source.rglob("*.py"):
        text = path.read_text()
        for literal in (r"=0\.05\b", r"=0\.10\b", r"=40\b", r"\b500\b"):
            if count := len(re.findall(r"(?<!le)" + literal, text)):
                places.setdefault(literal, []).append((path.name, count))
    assert places[r"=0\.05\b"] == [("qc.py", 1)]
    assert places[r"=0\.10\b"] == [("qc.py", 1)]
    assert places[r"\b500\b"] == [("heuristics.py", 1)]
    assert places[r"=40\b"] == [("qc.py", 1)]


def test_item_66_each_failed_threshold_has_one_reason_with_value_and_limit() -> None:
    rows = [rejected(n, finish_reason="length") for n in range(60)] + [candidate(100 + n) for n in range(20)]
    found = found_of(rows)
    told = summary(found, Thresholds(), decide(found, Thresholds()))
    names = [failure["threshold"] for failure in told["failed_reasons"]]
    assert names == ["max_limit_rate", "min_pair_acceptance"]
    assert [failure["limit"] for failure in told["failed_reasons"]] == [0.1, 0.5]
    assert [failure["value"] for failure in told["failed_reasons"]] == [0.75, 0.25]
    wanted = {"counts", "acceptance", "token_stats", "margins", "thresholds", "rates", "thresholds_passed"}
    assert wanted <= told.keys()


def test_item_68_nothing_kept_fails_and_few_kept_is_no_decision() -> None:
    assert decide(figures([], []), Thresholds()).passed is False
    assert any("no record was kept" in reason for reason in decide(figures([], []), Thresholds()).reasons)
    few = decide(found_of([candidate(n) for n in range(5)]), Thresholds())
    assert (few.passed, few.decided) == (False, False)


def test_item_69_margins_match_numpy_for_both_critics() -> None:
    other = critique(margin=0.5, critic="information_gain")
    rows = [candidate(n, pair_critique=critique(margin=n / 7), other_critiques=(other,)) for n in range(40)]
    found = found_of(rows, 10)
    values = np.array([n / 7 for n in range(40)])
    margins = found.margins["pair.choice"]
    assert margins.quantiles["p95"] == pytest.approx(np.quantile(values, 0.95))
    counts, edges = np.histogram(values, bins=10)
    assert margins.counts == tuple(counts)
    assert margins.edges == pytest.approx(tuple(edges))
    assert set(found.margins) == {"instruction.choice", "pair.choice", "pair.information_gain"}


def test_item_70_a_failed_guard_fails_whatever_the_rates() -> None:
    found = found_of([candidate(n) for n in range(50)])
    assert decide(found, Thresholds()).passed
    verdict = decide(found, Thresholds(), guard_passed=False)
    assert [f.threshold for f in verdict.failed] == ["guard"]


def test_advisory_thresholds_are_told_and_do_not_count() -> None:
    rows = [candidate(n) for n in range(30)] + [rejected(n) for n in range(30, 100)]
    verdict = decide(found_of(rows), Thresholds(), {"min_pair_acceptance": "its critic failed calibration"})
    assert verdict.passed
    assert "would have failed" in verdict.advisory["min_pair_acceptance"]


def test_an_unaccepted_or_edited_record_is_found() -> None:
    rows = [candidate(n) for n in range(30)]
    records = [sft_record(row) for row in rows]
    assert figures(judged(3), rows, records).mismatched_ids == ()
    edited = [dataclasses.replace(records[0], response="Something else."), *records[1:]]
    assert set(figures(judged(3), rows, edited).mismatched_ids) == {"c0", records[0].id}
    assert figures(judged(3), [*rows, candidate(99, pair_critique=critique(good=False))]).mismatched_ids == ("c99",)


def test_incomplete_and_repeated_kept_records_fail() -> None:
    rows = [candidate(n) for n in range(30)]
    assert "max_incomplete" in failed([*rows, candidate(40, "There are three reasons:")])
    assert "max_repeats" in failed([*rows, candidate(41, instruction="what is thing NUMBER 3")])


def test_figures_survive_json() -> None:
    found = found_of(read("item65_candidates.jsonl", Candidate))
    back = from_plain(QcFigures, json.loads(json.dumps(plain(found))))
    assert decide(back, Thresholds()) == decide(found, Thresholds())


def test_item_74_flags_equal_the_summary() -> None:
    rows = [candidate(1, "Fine.\nQ: next?"), candidate(2, "Three things:"), candidate(3)]
    listed = flags(rows)
    assert {(f.id, f.heuristic, f.rule) for f in listed} == {
        ("c1", "runaway", "new_prompt"),
        ("c2", "incomplete", "ends_in_colon"),
    }
    assert all(f.text[slice(*f.span)] in ("Q:", ":") for f in listed)
    assert sum(found_of(rows).flags.values()) == len(listed)


def run_of(num: int, bad_from: int) -> list[Candidate]:
    return [candidate(n) if n < bad_from else rejected(n, finish_reason="length") for n in range(num)]


def progressive(rows: list[Candidate], piece: int, **settings: float) -> tuple[list, ProgressiveQc]:
    watch = ProgressiveQc(ProgressiveQcSettings(**settings), Thresholds(), {})
    passed = []
    for start in range(0, len(rows), piece):
        items = [instruction(n, critique=critique()) for n in range(start, min(start + piece, len(rows)))]
        passed += watch.add(items, rows[start : start + piece])
    return passed, watch


def test_item_71_three_checkpoints_and_a_final_one() -> None:
    rows = run_of(350, 350)
    passed, watch = progressive(rows, 50)
    assert [checkpoint.num_generated for checkpoint in passed] == [100, 200, 300]
    assert watch.final().figures == figures(judged(350), rows)
    other, _ = progressive(rows, 35)
    assert [checkpoint.figures for checkpoint in other] == [checkpoint.figures for checkpoint in passed]


def test_item_72_a_model_that_turns_bad_is_noticed_before_300() -> None:
    passed, _ = progressive(run_of(400, 100), 10)
    first = next(checkpoint for checkpoint in passed if checkpoint.abort)
    assert first.num_generated == 200
    assert any("max_limit_rate" in text for text in first.abort)
    assert any("min_pair_acceptance" in text for text in first.abort)


def test_item_73_noise_does_not_abort() -> None:
    rows = [rejected(0, finish_reason="length"), *[candidate(n) for n in range(1, 10)]]
    passed, _ = progressive(rows, 10, every=10)
    assert [checkpoint.abort for checkpoint in passed] == [()]
    # 12 of 100 is over the limit of 10 %, and well within what chance does.
    rows = [rejected(n, finish_reason="length") if n % 8 == 0 and n < 96 else candidate(n) for n in range(100)]
    passed, _ = progressive(rows, 100)
    assert passed[0].abort == ()
    assert "max_limit_rate" in {f.threshold for f in passed[0].verdict.failed}


def shard(name: str, rows: list[Candidate]) -> Shard:
    items = tuple(instruction(row.seed, critique=critique()) for row in rows)
    return Shard(name, items, tuple(rows), tuple(sft_record(row) for row in rows if row.outcome == "kept"))


def test_item_76_a_one_shard_merge_has_the_shards_own_figures() -> None:
    rows = read("item65_candidates.jsonl", Candidate)
    items = tuple(read("item65_instructions.jsonl", Instruction))
    one = Shard("0", items, tuple(rows), tuple(sft_record(r) for r in rows if r.outcome == "kept"))
    merged = merge([one])
    assert figures(merged.instructions, merged.candidates, merged.records) == figures(items, rows, one.records)


@pytest.mark.parametrize(("count", "num_shards"), [(1003, 10), (7, 7), (10, 3), (1, 1)])
def test_item_106_shard_sizes_add_up(count: int, num_shards: int) -> None:
    sizes = shard_sizes(count, num_shards)
    assert sum(sizes) == count
    assert len(sizes) == num_shards
    assert max(sizes) - min(sizes) <= 1


def test_more_shards_than_records_is_an_error() -> None:
    with pytest.raises(SettingsError):
        shard_sizes(3, 4)


def test_item_112_merge_keeps_order_and_drops_repeats() -> None:
    first = shard("a", [candidate(n) for n in range(5)])
    second = shard("b", [candidate(9), candidate(2), candidate(8, instruction="WHAT is thing number 1")])
    merged = merge([first, second])
    assert [record.metadata["candidate"] for record in merged.records] == ["c0", "c1", "c2", "c3", "c4", "c9"]
    assert merged.counts == {
        "a": {"records": 5, "repeats": 0, "kept": 5},
        "b": {"records": 3, "repeats": 2, "kept": 1},
    }
    assert sum(row["kept"] for row in merged.counts.values()) == len(merged.records)
    assert [drop.detail["first_in"] for drop in merged.dropped] == ["a", "a"]
    found = figures(merged.instructions, merged.candidates, merged.records)
    assert (found.counts["kept"], found.repeat_ids, found.mismatched_ids) == (6, (), ())


def test_item_113_the_bad_shard_among_ten_is_named() -> None:
    shards = [shard(str(n), [candidate(n * 100 + k) for k in range(20)]) for n in range(10)]
    bad = [candidate(700 + k) for k in range(20)] + [rejected(750 + k, finish_reason="length") for k in range(40)]
    shards[7] = shard("7", bad)
    merged = merge(shards)
    verdict = decide(figures(merged.instructions, merged.candidates, merged.records), Thresholds())
    assert blame(verdict, shards, Thresholds()) == {"max_limit_rate": ["7"]}


def test_item_79_pilots_side_by_side() -> None:
    pilots = []
    for name, temperature, kept in (("p1", 0.3, 30), ("p2", 0.4, 40), ("p3", 0.4, 70)):
        found = found_of([candidate(n) if n < kept else rejected(n) for n in range(100)])
        told = summary(found, Thresholds(), decide(found, Thresholds()))
        pilots.append(Pilot(name, {"responses": {"temperature": temperature}}, told, {"seconds": 10.0}))
    table = compare_pilots(pilots)
    rows = dict(table.rows)
    assert rows["verdict"] == ("fail", "fail", "pass")
    assert rows["pair_acceptance"][2].startswith("70.0%")
    assert rows["cost.seconds"] == ("10", "10", "10")
    assert table.changed == {"p2": ("responses.temperature: 0.3 -> 0.4",), "p3": ()}
    assert table.moved["p3"] == ("min_pair_acceptance: now met",)


def test_item_25_pools_are_compared_by_acceptance_spread_and_types() -> None:
    texts = ["Why is it?", "Why is it", "What is a cat?", "Name a dog."]
    effect = pool_effect("small", [instruction(n, t, critique=critique(n < 3)) for n, t in enumerate(texts)])
    assert (effect.acceptance.value, effect.distinct.value, effect.types) == (0.75, 0.75, {"factual": 4})


def test_choice_between_siblings() -> None:
    def drawn(number: int, item: int, **values: object) -> Candidate:
        return candidate(number, instruction_id=f"i{item}", outcome="generated", **values)

    rows = choose(
        [
            drawn(0, 1, pair_critique=critique(margin=1.5)),
            drawn(1, 1, pair_critique=critique(margin=2.5)),
            drawn(2, 2, pair_critique=critique(good=False, margin=9)),
            drawn(3, 2, pair_critique=critique(confident=False, margin=0.1)),
            candidate(4, outcome="dropped", part="echo", reason="repeats_instruction"),
        ]
    )
    assert [row.outcome for row in rows] == ["passed_over", "kept", "rejected", "rejected", "dropped"]
    assert [row.reason for row in rows[2:4]] == ["bad", "low_confidence"]
    with pytest.raises(DataError):
        sft_record(rows[0])
    stored = sft_record(rows[1], rejects=[rows[0]])
    assert stored.rejects[0]["signed_margin"] == 1.5
    assert stored.instruction_critique is not None
