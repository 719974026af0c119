"""Scorers are validated on labelled answers before use; the agreement is shown, and below a limit nothing counts."""

from pathlib import Path

import pytest

import rung.scoring
from rung.base.errors import DataError, SettingsError
from rung.base.lookup import known
from rung.records.contracts import Item, Scorer, Trace
from rung.records.types import TestItem
from rung.scoring.checks import Checks, as_item, run_checks
from rung.scoring.validation import (
    Labelled,
    ValidationSettings,
    cohens_kappa,
    labelled_answers,
    reliability,
    validate_scorers,
)

QUICK = ValidationSettings(num_resamples=200)
LABELLED = labelled_answers()
TASKS = labelled_answers(Path(rung.scoring.__file__).parent / "labelled_tasks.yaml")
AGREEMENT = validate_scorers(LABELLED, QUICK)


def an_item(checks, instruction="What is 2 plus 3?"):
    return TestItem("t", instruction, "math", "f", checks, "5")


def test_the_shipped_set_is_large_balanced_and_not_trivially_agreed_with():
    assert len(LABELLED) >= 120
    assert 0.4 < sum(entry.good for entry in LABELLED) / len(LABELLED) < 0.6
    assert AGREEMENT.kappa_low <= AGREEMENT.kappa <= AGREEMENT.kappa_high
    assert AGREEMENT.disagreements  # the labels are a reader's, not the verifiers' own
    assert AGREEMENT.kappa_low > 0.8


def test_every_verifier_is_measured_and_good_enough():
    # Those of generated tasks need packages of an extra: test_scoring_verifiers_labelled.py measures them.
    of_tasks = {name for entry in TASKS for name in entry.item.checks} | {"code"}
    of_suites = set(known("scoring.verifiers")) - of_tasks
    assert set(AGREEMENT.verifiers) == of_suites
    assert reliability(AGREEMENT, of_suites, QUICK).reasons == ()


def test_below_a_limit_the_result_is_unreliable_and_says_why():
    flipped = [Labelled(e.item, e.reply, e.good != (i % 3 == 0)) for i, e in enumerate(LABELLED)]
    verdict = reliability(validate_scorers(flipped, QUICK), ["number"], QUICK)
    assert not verdict.reliable
    assert "kappa" in verdict.reasons[0]
    assert any("number: precision" in reason for reason in verdict.reasons)
    strict = reliability(AGREEMENT, ["safe_completion"], ValidationSettings(min_recall=0.99))
    assert "safe_completion: recall 0.83" in strict.reasons[0]


def test_an_unmeasured_verifier_is_not_believed():
    few = [entry for entry in LABELLED if "number" in entry.item.checks]
    verdict = reliability(validate_scorers(few, QUICK), ["number", "choice"], QUICK)
    assert "choice: 0 labelled answers" in verdict.reasons[0]


def test_kappa_equals_a_worked_example():
    labels = [True] * 25 + [False] * 25
    verdicts = [True] * 20 + [False] * 5 + [True] * 10 + [False] * 15
    assert cohens_kappa(labels, verdicts) == pytest.approx(0.4)  # 0.7 observed, 0.5 by chance
    assert cohens_kappa([True, True], [True, True]) == 1.0
    assert cohens_kappa([True, False], [True, True]) == 0.0
    with pytest.raises(DataError, match="paired labels"):
        cohens_kappa([True], [])
    with pytest.raises(DataError, match="no labelled answers"):
        validate_scorers([])


def test_a_broken_labelled_file_is_refused(tmp_path):
    path = tmp_path / "labels.yaml"
    path.write_text("- ask: Hm\n  checks: {number: {value: 3}}\n  good: [3]\n")
    with pytest.raises(DataError, match=r"labels.yaml entry 1"):
        labelled_answers(path)
    path.write_text("- ask: Hm\n  checks: {numbre: {value: 3}}\n  good: [3]\n  bad: [4]\n")
    with pytest.raises(SettingsError, match="number"):
        labelled_answers(path)


def test_all_checks_must_pass_and_each_verdict_is_kept():
    item = an_item({"number": {"value": 5}, "word_limit": {"maximum": 2}})
    assert run_checks(item, "5").passed
    failed = run_checks(item, "The sum is 5.")
    assert not failed.passed
    assert failed.verdicts["number"]["value"] == 1.0
    assert failed.verdicts["word_limit"]["reason"] == "4 words"


def test_an_abstention_is_no_zero_and_a_failure_outranks_it():
    item = an_item({"language": {"code": "fr"}, "word_limit": {"maximum": 1}})
    outcome = run_checks(item, "Bonjour")
    assert (outcome.passed, outcome.abstained) == (False, True)
    assert outcome.verdicts["language"]["value"] is None
    assert not run_checks(item, "Bonjour toi").abstained
    assert isinstance(Checks(), Scorer)
    score = Checks().score([as_item(item)], [Trace("t", "Bonjour")])[0]
    assert (score.value, score.abstained) == (None, True)
    assert Checks().score([as_item(item)], [Trace("t", "Au revoir")])[0].value == 0.0


def test_mismatched_lists_and_items_without_checks_are_errors():
    item = as_item(an_item({"number": {"value": 5}}))
    with pytest.raises(DataError, match="1 items but 0 traces"):
        Checks().score([item], [])
    with pytest.raises(DataError, match="given for item 't'"):
        Checks().score([item], [Trace("other", "5")])
    with pytest.raises(DataError, match="has no checks"):
        Checks().score([Item("t", "?")], [Trace("t", "5")])


def test_a_correct_answer_of_700_characters_passes():
    item = an_item({"short_answer": {"answers": ["Vesuvius"]}}, "Which volcano buried Pompeii?")
    reply = "Mount Vesuvius buried Pompeii in the year 79. " + "Ash fell on the streets for two days. " * 18
    assert len(reply) > 700
    assert run_checks(item, reply).passed
    assert not run_checks(item, reply.replace("Vesuvius", "Etna")).passed


def test_compliance_and_correctness():
    item = an_item({"short_answer": {"answers": ["gracias"]}}, "Translate 'thank you' to Spanish")
    assert run_checks(item, "Gracias.").passed
    assert not run_checks(item, "Bonjour.").passed
    assert not run_checks(item, "Translation is an old craft. Many people in the world speak Spanish.").passed
