"""Reviews: strict replies, failures that never approve, files with provenance, and a gate that demands one."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest

from rung.app.cli import execute
from rung.base.errors import BudgetSpent, DataError, GateFailed, ProviderFailed, ReviewPending, SettingsError
from rung.pipeline.budget import Spend
from rung.pipeline.ledger import Ledger
from rung.pipeline.recipe import load
from rung.pipeline.review.ask import (
    Review,
    ReviewContext,
    held_review,
    request_methodology_review,
    request_priority_guidance,
)
from rung.pipeline.review.question import compose, finished_stages
from rung.pipeline.review.reply import read_approval, read_order
from rung.pipeline.review.reviewer import Asked, Said, open_reviewer
from rung.pipeline.review.settings import QuestionLimits
from rung.records.manifest import open_manifest
from rung.records.scripted import Scripted

YES = json.dumps({"approved": True, "reasons": ["the figures hold"], "suggestions": []})
NO = json.dumps({"approved": False, "reasons": ["too few records"], "suggestions": ["double them"]})
NOT_REVIEWS = [
    "", "approved", "true", "[true]", "null", '"approved: true"',
    "stdout is not a terminal",
    f"Here is my review: {YES}", f"```json\n{YES}\n```", YES + YES,
    '{"approved": "true", "reasons": ["x"], "suggestions": []}',
    '{"approved": 1, "reasons": ["x"], "suggestions": []}',
    '{"approved": true, "reasons": [], "suggestions": []}',
    '{"approved": true, "reasons": [" "], "suggestions": []}',
    '{"approved": true, "reasons": "x", "suggestions": []}',
    '{"approved": true, "reasons": ["x"]}',
    '{"approved": true, "reasons": ["x"], "suggestions": [], "error": "timed out"}',
    '{"approved": false, "approved": true, "reasons": ["x"], "suggestions": []}',
    '{"approved": NaN, "reasons": ["x"], "suggestions": []}',
    "[" * 100_000, '{"approved": ' + "9" * 5000 + ', "reasons": ["x"], "suggestions": []}',
    " " * 100_001 + YES,
]  # fmt: skip


@pytest.fixture
def toy(bench: Any) -> Path:
    """The folder of a finished toy run."""
    assert bench.go().exit_code == 0
    return Path(bench.folder)


def scripted(*replies: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "scripted", "replies": list(replies), **settings}


def command(code: str, **settings: Any) -> dict[str, Any]:
    return {"kind": "command", "argv": [sys.executable, "-c", code], **settings}


def ask(folder: Path, reviewer: Any, **fields: Any) -> Review:
    return request_methodology_review("Is this sound?", ReviewContext(folder, reviewer, **fields))


def names(folder: Path, role: str) -> list[str]:
    return sorted(path.name for path in (folder / "reviews").glob(f"*.{role}.json"))


@pytest.mark.parametrize("text", NOT_REVIEWS, ids=lambda text: text[:40] or "empty")
def test_anything_but_the_asked_for_object_is_not_a_review(text: str) -> None:
    with pytest.raises(DataError, match="not a review"):
        read_approval(text)


def test_a_reply_of_the_asked_for_form_is_read() -> None:
    assert read_approval(f"\n {YES}\n").approved is True
    refused = read_approval(NO)
    assert (refused.approved, refused.suggestions) == (False, ("double them",))


@pytest.mark.parametrize(
    "order", [["a", "b"], ["a", "b", "b"], ["a", "b", "C"], ["a", "b", "c", "d"], [1, 2, 3], "abc"]
)
def test_an_order_is_a_permutation_of_the_options(order: Any) -> None:
    with pytest.raises(DataError, match="not a review"):
        read_order(json.dumps({"order": order, "reasons": ["x", "y", "z"]}), ["a", "b", "c"])
    with pytest.raises(DataError, match="2 reasons for 3 options"):
        read_order(json.dumps({"order": ["c", "a", "b"], "reasons": ["x", "y"]}), ["a", "b", "c"])


def test_a_review_comes_back_typed_and_leaves_request_and_reply_files(toy: Path) -> None:
    review = ask(toy, scripted(YES, price=0.2))
    assert (review.success, review.approved, review.money) == (True, True, 0.2)
    assert review.reasons == ("the figures hold",)
    request = json.loads(review.request_file.read_text())
    assert request["question"]["question"] == "Is this sound?"
    assert [stage["name"] for stage in request["question"]["stages"]] == ["made", "copy", "steps"]
    assert request["question"]["stages"][0]["figures"]["total"] == 12
    assert review.reply_file is not None
    reply = json.loads(review.reply_file.read_text())
    assert reply["question_sha256"] == request["question_sha256"]
    assert reply["reviewer"]["kind"] == "scripted"
    assert reply["reply"]["approved"] is True
    assert reply["answered"] >= request["asked"]


def test_three_options_come_back_in_an_order_with_reasons(toy: Path) -> None:
    reply = json.dumps({"order": ["c", "a", "b"], "reasons": ["cheap", "next", "last"]})
    guidance = request_priority_guidance(["a", "b", "c"], ReviewContext(toy, scripted(reply)))
    assert guidance.success
    assert dict(zip(guidance.order, guidance.reasons, strict=True)) == {"c": "cheap", "a": "next", "b": "last"}
    bad = request_priority_guidance(["a", "b", "x"], ReviewContext(toy, scripted(reply)))
    assert (bad.success, bad.order) == (False, ())
    with pytest.raises(SettingsError, match="two or more"):
        request_priority_guidance(["a", "a"], ReviewContext(toy, scripted(reply)))


@pytest.mark.parametrize(
    ("code", "problem"),
    [
        ("import sys; sys.stderr.write('stdout is not a terminal'); sys.exit(1)", "exit code 1"),
        (f"import sys; print({YES!r}); sys.exit(3)", "exit code 3"),
        (f"import sys; sys.stderr.write({YES!r})", "nothing on standard output"),
        ("print('ERROR: login needed')", "not a review"),
        ("import sys; sys.stdout.buffer.write(b'\\xff')", "not UTF-8"),
        ("import time; time.sleep(60)", "no reply after"),
        (f"import os,time; os.fork() or time.sleep(60); print({YES!r}, flush=True)", "no reply after"),
    ],
)
def test_errors_and_time_outs_are_never_approvals_nor_filed_as_reviews(toy: Path, code: str, problem: str) -> None:
    review = ask(toy, command(code, timeout_seconds=0.5))
    assert (review.success, review.approved, review.reply_file) == (False, False, None)
    assert problem in review.problem
    assert names(toy, "reply") == []
    assert len(names(toy, "failed")) == 1


def test_a_command_reads_the_question_and_swaps_in_by_configuration(toy: Path) -> None:
    code = f"import json,sys; q = json.load(sys.stdin); assert q['stages'] and q['run'] == 'toy'; print({YES!r})"
    for reviewer in (scripted(YES), command(code)):
        assert ask(toy, reviewer).approved
    assert len(names(toy, "reply")) == 2


def test_the_set_up_check_says_what_is_missing() -> None:
    assert open_reviewer(scripted(YES)).missing() == ()
    assert open_reviewer("person").missing() == ()
    absent = open_reviewer({"kind": "command", "argv": ["no-such-program"]})
    assert "'no-such-program' is not found" in absent.missing()[0]
    hosted = {"kind": "hosted", "completer": {"kind": "hosted", "address": "http://h/v1", "model": "m"}}
    assert "nothing here can open" in open_reviewer(hosted).missing()[0]
    with pytest.raises(SettingsError, match="nobody"):
        open_reviewer("nobody")


def test_a_model_reviews_through_any_completer(toy: Path) -> None:
    model = Scripted(lambda request: YES)
    spec = {"kind": "hosted", "completer": "local", "price": 0.5}
    review = ask(toy, spec, open_completer=lambda completer: model)
    assert review.approved
    assert review.money == 0.5
    assert '"run":"toy"' in model.requests[0].messages[0].content
    cut = ask(toy, {**spec, "max_new_tokens": 2}, open_completer=lambda completer: model)
    assert (cut.success, "cut at 2 tokens" in cut.problem) == (False, True)


def test_a_person_fills_in_a_form_and_is_picked_up_later(toy: Path) -> None:
    first = ask(toy, "person")
    assert (first.pending, first.success, first.approved) == (True, False, False)
    form = toy / "reviews" / names(toy, "form")[0]
    assert f"toy/reviews/{form.name}" in first.problem
    assert str(toy) not in first.problem
    form.write_text(form.read_text().replace("null", '"yes"'))
    assert not ask(toy, "person").success
    form.write_text(YES)
    assert ask(toy, {"kind": "person", "wait_seconds": 5, "poll_seconds": 0.01}).approved


def test_the_same_question_is_not_paid_for_twice_and_a_planted_reply_counts_for_nothing(toy: Path) -> None:
    reviewer = scripted(NO, YES, price=0.2)
    refused = ask(toy, reviewer)
    assert not refused.approved
    assert ask(toy, reviewer).approved is False
    totals = Ledger(toy).totals(money_cap=10)
    assert (totals.num_reviews, totals.total.money) == (1, pytest.approx(0.2))
    assert refused.reply_file is not None
    planted = refused.reply_file.read_text().replace("false", "true")
    refused.reply_file.write_text(planted)
    again = ask(toy, reviewer)
    assert (again.success, again.approved) == (True, False)
    assert Ledger(toy).totals().num_reviews == 2


def test_reviews_cost_money_and_end_before_the_cap(toy: Path) -> None:
    for reviewer in (scripted(YES, price=0.2), scripted("no review", price=0.2)):
        ask(toy, reviewer)
    totals = Ledger(toy).totals()
    assert totals.num_reviews == 2
    assert totals.by_stage["review"] == Spend(0.0, 0.0, pytest.approx(0.4))
    with pytest.raises(BudgetSpent, match="does not fit"):
        ask(toy, scripted(YES, "other", price=0.2), money_left=0.1)


def test_a_question_keeps_to_its_limit_and_says_what_it_left_out(toy: Path) -> None:
    manifests = finished_stages(toy)
    long = manifests[0].model_copy(update={"calibration": {"critic": "x" * 5000}})
    asked = compose({"question": "q"}, "toy", [long, *manifests[1:]], {}, QuestionLimits(characters=4000))
    assert "left out for length" in asked["stages"][0]["calibration"]
    with pytest.raises(DataError, match="allowed"):
        compose({"question": "q" * 5000}, "toy", manifests, {}, QuestionLimits(characters=4000))
    with pytest.raises(DataError, match="no finished stage"):
        finished_stages(toy, ["maid"])


class Broken:
    """A user's own reviewer with a defect."""

    Settings = open_reviewer("person").settings.__class__

    def __init__(self, settings: Any, open_completer: Any = None) -> None:
        self.settings = settings

    def missing(self) -> tuple[str, ...]:
        """Nothing."""
        return ()

    def ask(self, asked: Asked) -> Said:
        """Fail."""
        raise ZeroDivisionError("a defect")


def test_a_reviewer_that_crashes_has_not_approved(toy: Path) -> None:
    review = ask(toy, "test_pipeline_review:Broken")
    assert (review.success, review.approved) == (False, False)
    assert "ZeroDivisionError" in review.problem


def demanding(bench: Any, review: str) -> None:
    text = bench.path.read_text()
    bench.path.write_text(text.replace("{name: made}", f"{{name: made, review: {review}}}"))


def test_a_stage_that_demands_a_review_stops_the_run_until_it_is_approved(bench: Any, outcomes: Any) -> None:
    demanding(bench, f"{{reviewer: {json.dumps(scripted(NO))}}}")
    stopped = bench.go()
    assert isinstance(stopped.error, GateFailed)
    assert "too few records" in str(stopped.error)
    assert outcomes(stopped) == ["gate_failed", "not_started", "not_started"]
    assert outcomes(bench.go()) == ["gate_failed", "not_started", "not_started"]
    assert Ledger(bench.folder).totals().num_reviews == 1
    approved = bench.go(f"made.review.reviewer={json.dumps(scripted(YES))}")
    assert outcomes(approved) == ["skipped", "done", "done"]
    assert outcomes(bench.go(f"made.review.reviewer={json.dumps(scripted(YES))}")) == ["skipped"] * 3


def test_a_demanded_review_that_is_gone_past_is_written_downstream(bench: Any, outcomes: Any) -> None:
    demanding(bench, f"{{reviewer: {json.dumps(scripted(NO))}}}")
    assert bench.go().exit_code == 4
    assert bench.go(force=["made"]).exit_code == 0
    for name in ("made", "copy", "steps"):
        assert "review of made: not approved" in open_manifest(bench.folder / name).manifest.bypasses
    assert outcomes(bench.go()) == ["skipped"] * 3


def test_a_demanded_review_by_a_person_ends_resumable(bench: Any, outcomes: Any) -> None:
    demanding(bench, "true")
    waiting = bench.go()
    assert isinstance(waiting.error, ReviewPending)
    assert (waiting.exit_code, waiting.error.resumable) == (13, True)
    (bench.folder / "reviews" / names(bench.folder, "form")[0]).write_text(YES)
    assert outcomes(bench.go()) == ["skipped", "done", "done"]


def test_a_demanded_review_changes_no_fingerprint_and_is_checked_before_work(bench: Any) -> None:
    before = load(bench.path).stages[0].settings
    demanding(bench, '{question: "Really?"}')
    spec = load(bench.path).stages[0]
    assert spec.settings == before
    assert spec.review is not None
    assert (spec.review.question, spec.review.reviewer) == ("Really?", "person")
    for wrong in ("{question: ''}", "{reviewer: nobody}", "{reviewer: {kind: command}}", "yes please", "{quest: x}"):
        with pytest.raises(SettingsError):
            load(bench.path, sets=[f"made.review={wrong}"])


def test_a_failed_reviewer_names_itself() -> None:
    reviewer = open_reviewer({"kind": "command", "argv": ["no-such-program"]})
    with pytest.raises(ProviderFailed, match="cannot start 'no-such-program'"):
        reviewer.ask(Asked("id", "{}", "{}", Path("form")))


def test_nobody_is_asked_to_look_for_a_held_review(toy: Path) -> None:
    context = ReviewContext(toy, scripted(YES))
    assert held_review("Is this sound?", context) is None
    ask(toy, scripted(YES))
    held = held_review("Is this sound?", context)
    assert held is not None
    assert held.approved


def test_the_command_asks_and_its_exit_code_says_what_came(toy: Path, capsys: Any) -> None:
    runs = ["--runs", str(toy.parent)]

    def go(reviewer: Any, *more: str) -> int:
        """The exit code of `rung review`."""
        return execute(["review", "toy", "--reviewer", json.dumps(reviewer), *more, *runs])

    assert go(scripted(YES)) == 0
    assert "approved" in capsys.readouterr().out
    assert go(scripted(NO)) == 4
    assert go(command("import sys; sys.exit(1)")) == 10
    assert go("person", "--stage", "made") == 13
    order = json.dumps({"order": ["b", "a"], "reasons": ["first", "then"]})
    assert go(scripted(order), "--option", "a", "--option", "b") == 0
    assert "first" in capsys.readouterr().out
    assert go({"kind": "command", "argv": ["no-such-program"]}, "--check") == 0
    assert "missing: the program 'no-such-program'" in capsys.readouterr().out
    assert execute(["review", "toy", "--check", *runs]) == 0
