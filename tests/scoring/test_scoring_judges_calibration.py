"""Calibration: corruptions, AUC with intervals, thresholds, verdicts, the written rule, position bias, rubric tests."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from scipy.stats import mannwhitneyu

from rung.base.errors import DataError, GateFailed, SettingsError
from rung.base.fingerprint import canonical
from rung.base.proportions import wilson_interval
from rung.base.settings import validate
from rung.records.contracts import Item, Score, Trace
from rung.records.scripted import Scripted
from rung.records.types import Critique
from rung.scoring.calibration import CalibrationSettings, calibrate, choose, mandated_kinds
from rung.scoring.calibration_report import CalibrationReport
from rung.scoring.corruptions import INSTRUCTION_KINDS, PAIR_KINDS, corrupt
from rung.scoring.critic import undecided
from rung.scoring.discrimination import Judgements, auc, precision_at, threshold_for
from rung.scoring.judges.choice import ChoiceCritic
from rung.scoring.judges.information_gain import InformationGain
from rung.scoring.known_pairs import KnownPair, known_pairs, parse_pairs
from rung.scoring.rubric_comparison import Labelled, compare_rubrics

PAIRS = known_pairs()
GOOD = {(pair.instruction, pair.response) for pair in PAIRS}
QUICK = {"num_resamples": 200}


class Oracle:
    """A critic that is told the value of each answer; None abstains."""

    def __init__(self, value: Callable[[str, str], float | None], threshold: float = 1.0) -> None:
        self.value, self.threshold = value, threshold

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        values = [self.value(i.instruction, t.text) for i, t in zip(items, traces, strict=True)]
        return [Score(v, abstained=v is None) for v in values]

    def critique(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Critique]:
        found = []
        for score in self.score(items, traces):
            value = score.value
            if value is None:
                found.append(undecided("oracle", self.threshold, "abstained"))
                continue
            sure = abs(value) >= self.threshold
            label = "A" if value > 0 else "B"
            found.append(Critique("oracle", value > 0, sure, label, value, 0.0, abs(value), value, self.threshold))
        return found

    def with_threshold(self, threshold: float) -> Oracle:
        return Oracle(self.value, threshold)

    def record(self) -> Mapping[str, Any]:
        return {"critic": "oracle"}


def knows(instruction: str, response: str) -> float:
    return 2.0 if (instruction, response) in GOOD else -2.0


def guesses(instruction: str, response: str) -> float:
    return len(instruction + response) * 7919 % 1000 / 500 - 1


def report(value: Callable[[str, str], float | None], name: str = "", **settings: object) -> CalibrationReport:
    chosen = validate(CalibrationSettings, {**QUICK, **settings}, "calibration")
    found = calibrate(Oracle(value), PAIRS, chosen, seed=3)
    return found.model_copy(update={"critic": name or found.critic})


def test_the_shipped_pairs() -> None:
    kinds = [pair.type for pair in PAIRS]
    assert len(PAIRS) >= 80
    assert all(kinds.count(kind) >= 16 for kind in set(kinds))
    lengths = [len(pair.response.split()) for pair in PAIRS]
    assert min(lengths) == 1
    assert 50 <= max(lengths) <= 80


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("- a", "expected a mapping"),
        ("a: [{instruction: x}]", r"pairs:a\[0\]: expected"),
        ("a: [{instruction: x, response: ''}]", "is empty"),
        ("a: [{instruction: x, response: y}, {instruction: X, response: z}]", "comes twice"),
        ("a: [", "not YAML"),
    ],
)
def test_broken_pairs_are_refused_with_their_place(text: str, said: str) -> None:
    with pytest.raises(DataError, match=said):
        parse_pairs(text, "pairs")


def test_corruptions_are_what_their_names_say() -> None:
    made = corrupt(PAIRS, seed=1)
    assert {one.kind for one in made} == set(PAIR_KINDS)
    answers = {pair.response: pair for pair in PAIRS}
    for one in made:
        source = PAIRS[one.source]
        assert one.instruction == source.instruction
        assert one.response != source.response
        if one.kind == "shuffled":
            assert answers[one.response].type == source.type
        if one.kind == "truncated":
            assert source.response.startswith(one.response)
            assert 0 < len(one.response.split()) <= len(source.response.split()) * 2 / 3
        if one.kind == "repeated":
            assert one.response.count(source.response) >= 3
        if one.kind == "echo":
            assert one.response.endswith(source.instruction)
        if one.kind == "empty":
            assert one.response == ""


def test_every_pair_has_each_corruption_that_can_be_applied() -> None:
    made = corrupt(PAIRS, seed=1)
    for kind in PAIR_KINDS:
        number = sum(one.kind == kind for one in made)
        assert number == (sum(len(p.response.split()) >= 6 for p in PAIRS) if kind == "truncated" else len(PAIRS))


def test_shuffled_answers_serve_once_each() -> None:
    shuffled = [one.response for one in corrupt(PAIRS, seed=1) if one.kind == "shuffled"]
    assert sorted(shuffled) == sorted(pair.response for pair in PAIRS)


def test_corruptions_depend_on_the_seed_alone() -> None:
    assert corrupt(PAIRS, seed=1) == corrupt(PAIRS, seed=1)
    assert corrupt(PAIRS, seed=1) != corrupt(PAIRS, seed=2)


def test_a_lone_pair_of_its_type_is_shuffled_with_another_type() -> None:
    pairs = [KnownPair("a?", "one", "x"), KnownPair("b?", "two", "y"), KnownPair("c?", "three", "y")]
    shuffled = {one.source: one.response for one in corrupt(pairs, 0) if one.kind == "shuffled"}
    assert shuffled[0] in {"two", "three"}
    assert shuffled[1] == "three"
    same = [KnownPair("a?", "yes", "x"), KnownPair("b?", "Yes", "x")]
    assert [one for one in corrupt(same, 0) if one.kind == "shuffled"] == []


def test_instructions_can_be_corrupted_instead() -> None:
    made = corrupt(PAIRS, seed=1, target="instruction")
    assert {one.kind for one in made} == set(INSTRUCTION_KINDS)
    for one in made:
        assert one.response == PAIRS[one.source].response
        assert one.instruction != PAIRS[one.source].instruction
        if one.kind == "scrambled":
            assert sorted(one.instruction.split()) == sorted(PAIRS[one.source].instruction.split())


def test_auc_is_the_pairwise_probability_with_ties_counted_half() -> None:
    random_stream = np.random.default_rng(0)
    good, bad = random_stream.integers(0, 6, 40) + 1.0, random_stream.integers(0, 6, 40) + 0.0
    found = auc(Judgements(good, {"x": bad}), seed=0, num_resamples=500)
    assert found.value == pytest.approx(mannwhitneyu(good, bad).statistic / 1600)
    assert found.low < found.value < found.high


def test_auc_gives_each_kind_the_same_weight_and_skips_what_does_not_apply() -> None:
    good = np.array([1.0, 2.0])
    bad = {"won": np.array([0.0, np.nan]), "lost": np.array([9.0, 9.0])}
    assert auc(Judgements(good, bad), 0, 200).value == pytest.approx(0.5)


def test_an_interval_does_not_collapse_where_every_comparison_was_won() -> None:
    found = auc(Judgements(np.ones(40), {"x": np.zeros(40)}), 0, 200)
    assert found.value == 1.0
    assert found.low == pytest.approx(wilson_interval(40, 40)[0])
    assert found.low < 0.95


def test_the_interval_covers_the_truth_about_as_often_as_it_says() -> None:
    truth, random_stream, hits = 0.7602, np.random.default_rng(5), 0  # of N(1, 1) against N(0, 1)
    for trial in range(200):
        shared = random_stream.normal(size=60) * 0.5
        rest = np.sqrt(1 - 0.25)
        good = 1 + shared + rest * random_stream.normal(size=60)
        bad = shared + rest * random_stream.normal(size=60)
        found = auc(Judgements(good, {"x": bad}), trial, 300)
        hits += found.low <= truth <= found.high
    assert 180 <= hits <= 199


def test_abstentions_rank_last_and_are_never_accepted() -> None:
    none = -np.inf
    judgements = Judgements(np.array([none, 1.0]), {"x": np.array([none, none])})
    assert auc(judgements, 0, 200).value == pytest.approx((0.5 + 0.5 + 1 + 1) / 4)
    assert precision_at(judgements, 0.0, 0.5) == (1.0, 0.5)


def test_precision_is_at_the_expected_share_of_good_against_the_worst_kind() -> None:
    judgements = Judgements(np.array([1.0, 1.0]), {"x": np.array([1.0, -1.0]), "y": np.array([-1.0, -1.0])})
    precision, recall = precision_at(judgements, 0.5, good_share=0.5)
    assert (precision, recall) == (pytest.approx(1 / 1.5), 1.0)
    assert precision_at(judgements, 0.5, good_share=0.2)[0] == pytest.approx(0.2 / (0.2 + 0.8 * 0.5))
    assert np.isnan(precision_at(judgements, 5.0, 0.5)[0])


def test_the_threshold_is_the_lowest_that_reaches_the_precision() -> None:
    judgements = Judgements(np.array([1.0, 2.0, 3.0, 4.0]), {"x": np.array([0.5, 1.5, -1.0, -1.0])})
    assert threshold_for(judgements, 0.9, 0.5) == pytest.approx(1.75)
    assert threshold_for(judgements, 0.7, 0.5) == pytest.approx(0.75)
    assert threshold_for(Judgements(np.array([1.0]), {"x": np.array([9.0])}), 0.9, 0.5) is None
    assert threshold_for(Judgements(np.array([-1.0]), {"x": np.array([-2.0])}), 0.9, 0.5) is None


def test_a_critic_that_knows_may_gate() -> None:
    found = report(knows)
    assert found.verdict.may_gate
    assert found.overall.value == 1.0
    assert all(kind.auc.value == 1.0 for kind in found.kinds.values())
    assert found.cross_fit.good.num_accepted == len(PAIRS)
    assert found.cross_fit.bad.num_accepted == 0
    assert found.cross_fit.precision is not None
    assert found.cross_fit.precision.value == 1.0


def test_a_critic_that_guesses_gates_nothing_and_says_why() -> None:
    found = report(guesses)
    assert not found.verdict.may_gate
    assert any("AUC against shuffled" in reason for reason in found.verdict.reasons)
    assert found.kinds["shuffled"].auc.low < 0.5 < found.kinds["shuffled"].auc.high


def blind_to(kind: str) -> Callable[[str, str], float]:
    blind = {(one.instruction, one.response) for one in corrupt(PAIRS, 3) if one.kind == kind}
    return lambda instruction, response: 2.0 if (instruction, response) in GOOD | blind else -2.0


def test_one_mandated_kind_that_is_not_seen_is_enough_to_refuse() -> None:
    assert [r for r in report(blind_to("echo")).verdict.reasons if "echo" in r]
    assert not report(blind_to("echo")).verdict.may_gate


def test_truncation_is_measured_and_left_to_other_rules_unless_mandated() -> None:
    found = report(blind_to("truncated"))
    assert found.verdict.may_gate
    assert not found.kinds["truncated"].mandated
    assert found.kinds["truncated"].auc.value == 0.5
    assert found.kinds["truncated"].accepted.num_accepted == found.kinds["truncated"].accepted.num_judged
    assert not report(blind_to("truncated"), mandated=["truncated"]).verdict.may_gate


def test_the_limit_on_the_interval_decides() -> None:
    def fair(instruction: str, response: str) -> float:
        return guesses(instruction, response) + 2 * ((instruction, response) in GOOD) + 1.1

    low = min(kind.auc.low for kind in report(fair, precision=0.51).kinds.values() if kind.mandated)
    assert 0.6 < low < 0.99
    assert report(fair, precision=0.51, least_auc=low - 0.01).verdict.may_gate
    assert not report(fair, precision=0.51, least_auc=low + 0.001).verdict.may_gate


def test_too_few_pairs_decide_nothing() -> None:
    few = calibrate(Oracle(knows), PAIRS[20:40], CalibrationSettings(num_resamples=200), 0)
    assert not few.verdict.may_gate
    assert "20 pairs are too few" in few.verdict.reasons[0]
    with pytest.raises(DataError, match="cannot calibrate"):
        calibrate(Oracle(knows), PAIRS[:1], CalibrationSettings(), 0)


def test_a_precision_that_no_threshold_reaches_refuses() -> None:
    def upside_down(instruction: str, response: str) -> float:
        return 1.0 if knows(instruction, response) > 0 else 2.0

    found = report(upside_down)
    assert found.threshold is None
    assert any("no threshold reaches" in reason for reason in found.verdict.reasons)


def test_accepting_too_few_good_answers_refuses() -> None:
    def shy(instruction: str, response: str) -> float:
        return knows(instruction, response) if len(response) > 150 else min(-1.0, knows(instruction, response))

    found = report(shy, least_auc=0.5)
    assert any("of good answers" in reason for reason in found.verdict.reasons)


def test_all_abstained_gates_nothing() -> None:
    found = report(lambda instruction, response: None)
    assert not found.verdict.may_gate
    assert found.num_abstained_good == len(PAIRS)
    assert found.num_abstained_bad == found.num_bad


def test_cross_fitted_figures_are_not_those_of_the_data_the_threshold_was_chosen_on() -> None:
    """A guessing critic always finds a threshold that looks good where it was chosen; held-out answers unmask it."""
    random_stream, honest = np.random.default_rng(1), []
    for _ in range(6):
        noise: dict[tuple[str, str], float] = {}

        def guess(instruction: str, response: str, noise: dict[tuple[str, str], float] = noise) -> float:
            return noise.setdefault((instruction, response), float(random_stream.normal()))

        found = report(guess, precision=0.55, mandated=["shuffled"])
        if found.cross_fit.precision is not None:
            honest.append(found.cross_fit.precision.value)
    assert len(honest) >= 3
    assert np.mean(honest) < 0.55


def test_the_table_by_margin() -> None:
    rows = report(lambda i, r: abs(guesses(i, r)) + (knows(i, r) > 0)).by_margin
    assert rows[0].threshold == 0.0
    assert rows[0].num_good == len(PAIRS)
    recalls = [row.recall for row in rows]
    assert recalls == sorted(recalls, reverse=True)
    precisions = [row.precision for row in rows if row.precision is not None]
    assert precisions[-1] > precisions[0]


def test_a_report_goes_to_the_manifest_and_back() -> None:
    found = report(guesses)
    assert CalibrationReport.model_validate_json(canonical(found)) == found
    assert canonical(found) == canonical(report(guesses))


def test_unknown_kinds_are_refused() -> None:
    with pytest.raises(SettingsError, match="'shufled'") as caught:
        mandated_kinds(CalibrationSettings(mandated=("shufled",)))
    assert "shuffled" in caught.value.hint
    assert "truncated" not in mandated_kinds(CalibrationSettings())
    assert "scrambled" in mandated_kinds(CalibrationSettings(target="instruction"))


def test_the_rule_takes_the_first_that_may_gate() -> None:
    bad, good = report(guesses, "choice"), report(knows, "information_gain")
    chosen = choose([bad, good])
    assert (chosen.critic, chosen.index, chosen.forced) == ("information_gain", 1, False)
    assert chosen.threshold == good.threshold
    assert any(reason.startswith("choice: AUC") for reason in chosen.reasons)
    assert choose([good, bad]).index == 0


def test_with_none_the_rule_stops_the_run_and_says_what_to_do() -> None:
    with pytest.raises(GateFailed, match="choice: AUC against shuffled") as caught:
        choose([report(guesses, "choice")])
    assert "--force choice" in caught.value.hint
    assert "information_gain" in caught.value.hint
    with pytest.raises(GateFailed, match="none was calibrated"):
        choose([])


def test_a_forced_critic_gates_and_the_bypass_is_written_down() -> None:
    bad, good = report(guesses, "choice"), report(knows, "information_gain")
    chosen = choose([bad, good], force="choice")
    assert (chosen.critic, chosen.forced) == ("choice", True)
    assert any("AUC" in reason for reason in chosen.reasons)
    assert choose([bad, good], force="information_gain").forced is False
    with pytest.raises(SettingsError, match="cannot force"):
        choose([bad], force="other")


def letter_lover(prompt: str, ending: str) -> float:
    return 3.0 * (ending.strip() == "A")


def test_a_letter_lover_is_caught_by_the_swap_and_by_its_auc() -> None:
    critic = ChoiceCritic(ChoiceCritic.Settings(), Scripted([], letter_lover))
    found = calibrate(critic, PAIRS, CalibrationSettings(num_resamples=200), 0)
    assert found.critic == "choice"
    assert found.position is not None
    assert (found.position.num_flipped, found.position.num_judged) == (len(PAIRS), len(PAIRS))
    assert (found.position.mean_shift, found.position.mean_margin) == (3.0, 0.0)
    assert found.overall.value == 0.5
    assert not found.verdict.may_gate
    with pytest.raises(GateFailed):
        choose([found])


def test_a_reader_is_not_biased_by_position() -> None:
    good_line = ChoiceCritic.Settings().preset

    def reads(prompt: str, ending: str) -> float:
        fields = dict(line.split(": ", 1) for line in prompt.split("\n") if ": " in line)
        right = (fields.get("Instruction", ""), fields.get("Response", "")) in {
            (i.split("\n")[0], r.split("\n")[0]) for i, r in GOOD
        }
        meaning = next(line for line in prompt.split("\n") if line.startswith(f"{ending.strip()} = "))
        return 2.0 * (right == ("clear" in meaning))

    critic = ChoiceCritic(ChoiceCritic.Settings(preset=good_line), Scripted([], reads))
    found = calibrate(critic, PAIRS, CalibrationSettings(num_resamples=200, mandated=("shuffled", "echo")), 0)
    assert found.position is not None
    assert found.position.num_flipped == 0
    assert found.verdict.may_gate


def test_a_rubrics_extra_margin_is_part_of_the_calibration() -> None:
    """The threshold found must accept with the presets what the calibration says it accepts."""

    def score_of(prompt: str, ending: str) -> float:
        response = prompt.split("Response: ")[1].split("\n")[0]
        instruction = prompt.split("Instruction: ")[1].split("\n")[0]
        return (len(instruction + response) * 7919 % 1000 / 250) * (ending.strip() == "A") + 0.0

    settings = ChoiceCritic.Settings(by_type={"creative": "loose", "factual": "strict"})
    critic = ChoiceCritic(settings, Scripted([], score_of))
    for row in calibrate(critic, PAIRS, CalibrationSettings(num_resamples=200), 0).by_margin[1:]:
        items = [Item("", p.instruction, p.type) for p in PAIRS]
        critiques = critic.with_threshold(row.threshold).critique(items, [Trace("", p.response) for p in PAIRS])
        assert sum(c.accepted for c in critiques) == pytest.approx(row.num_good, abs=1)


def test_information_gain_is_calibrated_and_has_no_labels_to_swap() -> None:
    answers = {pair.instruction: pair.response for pair in PAIRS}

    def score_of(prompt: str, continuation: str) -> float:
        asked = next((i for i in answers if i in prompt), "")
        if continuation == "\n":
            return -0.5
        return -0.5 if asked and continuation.strip().startswith(answers[asked][:12]) else -9.0

    critic = InformationGain(InformationGain.Settings(), Scripted([], score_of))
    found = calibrate(critic, PAIRS, CalibrationSettings(num_resamples=200), 0)
    assert found.position is None
    assert found.kinds["shuffled"].auc.value > 0.99
    assert found.num_abstained_bad == len(PAIRS)  # the empty ones
    assert found.num_abstained_good == 0


def labelled(number: int = 40) -> list[Labelled]:
    pairs = PAIRS[:number]
    wrong = [one for one in corrupt(PAIRS, 3) if one.kind == "shuffled"][:number]
    return [Labelled(p.instruction, p.response, p.type, True) for p in pairs] + [
        Labelled(w.instruction, w.response, w.type, False) for w in wrong
    ]


def test_two_rubrics_over_one_labelled_set() -> None:
    always = Oracle(lambda i, r: 2.0)
    found = compare_rubrics(Oracle(knows), always, labelled(), ("strict", "loose"))
    assert found.names == ("strict", "loose")
    assert [a.num_accepted for a in found.acceptance] == [40, 80]
    assert [(p.num_accepted, p.num_judged) for p in found.precision] == [(40, 40), (40, 80)]
    assert [(r.num_accepted, r.num_judged) for r in found.recall] == [(40, 40), (40, 40)]
    assert (found.agreement.num_accepted, found.agreement.num_judged) == (40, 80)
    assert found.kappa == pytest.approx(0.0)
    assert (found.only_first_right, found.only_second_right) == (40, 0)
    assert found.p_correct == pytest.approx(2 * 0.5**40)
    assert (found.only_first_accepts, found.only_second_accepts) == (0, 40)


def test_equal_rubrics_do_not_differ() -> None:
    found = compare_rubrics(Oracle(knows), Oracle(knows), labelled())
    assert (found.p_correct, found.p_acceptance, found.kappa) == (1.0, 1.0, 1.0)
    with pytest.raises(DataError):
        compare_rubrics(Oracle(knows), Oracle(knows), [])
