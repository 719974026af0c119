"""Asking for a review, and keeping what came of it.

Every question leaves a request file in the run's folder. A reply that is a review leaves a reply file beside it, and a
line in the ledger with its cost and its hash; the same question to the same reviewer is then answered from there and
not paid for again. What is no review (an error, a passed time limit, a text that cannot be read) leaves a failure
file, never a reply: nothing that reads replies can take it for one.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import rung
from rung.base.errors import BudgetSpent, DataError, Interrupted, ReviewPending, RungError, SettingsError, StorageError
from rung.base.files import read_json, write_json
from rung.base.fingerprint import canonical, content_hash, hash_file, plain
from rung.base.secrets import redact, redact_all
from rung.pipeline.budget import Spend
from rung.pipeline.ledger import Entry, Ledger, utc_now
from rung.pipeline.review.question import compose, finished_stages
from rung.pipeline.review.reply import APPROVAL_FORM, Approval, Order, order_form, read_approval, read_order
from rung.pipeline.review.reviewer import Asked, OpenCompleter, Reviewer, open_reviewer
from rung.pipeline.review.settings import QuestionLimits

__all__ = [
    "REVIEWS",
    "Guidance",
    "Review",
    "ReviewContext",
    "held_review",
    "request_methodology_review",
    "request_priority_guidance",
]

REVIEWS = "reviews"
_VERSION = 1
T = TypeVar("T", Approval, Order)


@dataclass(frozen=True)
class ReviewContext:
    """Around a question: the run's folder, who is asked, which finished stages are shown (all when empty).

    A review is charged to the last of `stages`. `money_left` is what the run may still spend (None: no cap).
    `open_completer` opens models for reviewers that are models.
    """

    folder: Path
    reviewer: str | dict[str, Any] = "person"
    stages: tuple[str, ...] = ()
    limits: QuestionLimits = field(default_factory=QuestionLimits)
    money_left: float | None = None
    open_completer: OpenCompleter | None = None


@dataclass(frozen=True, slots=True)
class Review:
    """What came of asking for approval. `success` says whether a review came at all; `approved` is True only in one
    that says so. `problem` is why none came, `pending` that it may come later, `seconds` and `money` what it took."""

    success: bool
    approved: bool
    request_file: Path
    reasons: tuple[str, ...] = ()
    suggestions: tuple[str, ...] = ()
    problem: str = ""
    pending: bool = False
    reply_file: Path | None = None
    seconds: float = 0.0
    money: float = 0.0


@dataclass(frozen=True, slots=True)
class Guidance:
    """What came of asking for an order: `order` is a permutation of the options with a reason for each, or empty."""

    success: bool
    order: tuple[str, ...]
    reasons: tuple[str, ...]
    request_file: Path
    problem: str = ""
    pending: bool = False
    reply_file: Path | None = None
    seconds: float = 0.0
    money: float = 0.0


@dataclass(frozen=True)
class _Question(Generic[T]):
    """A question on its way: what is sent, and how a reply to it is read."""

    kind: str
    values: dict[str, Any]
    form: Mapping[str, Any]
    read: Callable[[str], T]
    context: ReviewContext

    @property
    def id(self) -> str:
        """The same for the same question to the same reviewer."""
        return f"{self.kind}-{content_hash([self.values, _identity(self.context.reviewer)])[:12]}"

    def file(self, role: str) -> Path:
        """`request`, `reply`, `form` or `failed`."""
        return self.context.folder / REVIEWS / f"{self.id}.{role}.json"


@dataclass(frozen=True, slots=True)
class _Came(Generic[T]):
    """A reply that was read, or the reason why there is none."""

    reply: T | None
    problem: str = ""
    pending: bool = False
    seconds: float = 0.0
    money: float = 0.0


def request_methodology_review(question: str, context: ReviewContext) -> Review:
    """Ask whether the method is sound, showing the run's manifests.

    Whatever goes wrong on the reviewer's side comes back as a result that is no success and no approval.

    Raises:
        SettingsError: an empty question, or reviewer settings that are wrong.
        DataError: a stage that is not finished, or a question that is too long.
        BudgetSpent: the run's cap on money has no room for it.
    """
    asked = _methodology(question, context)
    came = _ask(asked)
    reply = came.reply or Approval(False, (), ())
    return Review(
        success=came.reply is not None,
        approved=reply.approved is True,
        request_file=asked.file("request"),
        reasons=reply.reasons,
        suggestions=reply.suggestions,
        reply_file=asked.file("reply") if came.reply else None,
        **_outcome(came),
    )


def request_priority_guidance(options: Sequence[str], context: ReviewContext) -> Guidance:
    """Ask in which order to do things, showing the run's manifests.

    Raises:
        SettingsError: fewer than two options, equal or empty ones, or reviewer settings that are wrong.
        DataError, BudgetSpent: as for `request_methodology_review`.
    """
    if len(options) < 2 or len(set(options)) < len(options) or not all(option.strip() for option in options):
        raise SettingsError("an order needs two or more different options", place="options", hint="name each once")
    form = order_form(options)
    values = _values({"kind": "priority_guidance", "options": list(options)}, form, context)
    asked = _Question("guidance", values, {"order": [], "reasons": []}, lambda text: read_order(text, options), context)
    came = _ask(asked)
    reply = came.reply or Order((), ())
    return Guidance(
        success=came.reply is not None,
        order=reply.order,
        reasons=reply.reasons,
        request_file=asked.file("request"),
        reply_file=asked.file("reply") if came.reply else None,
        **_outcome(came),
    )


def held_review(question: str, context: ReviewContext) -> Approval | None:
    """The review that this very question was answered with before; nobody is asked."""
    return _held(_methodology(question, context))


def _methodology(text: str, context: ReviewContext) -> _Question[Approval]:
    if not text.strip():
        raise SettingsError("there is no question", place="question", hint="say what is to be reviewed")
    values = _values({"kind": "methodology_review", "question": text}, APPROVAL_FORM, context)
    form: dict[str, Any] = {"approved": None, "reasons": [], "suggestions": []}
    return _Question("methodology", values, form, read_approval, context)


def _values(ask: Mapping[str, Any], form: Mapping[str, str], context: ReviewContext) -> dict[str, Any]:
    manifests = finished_stages(context.folder, context.stages)
    return compose(ask, context.folder.name, manifests, form, context.limits)


def _outcome(came: _Came[Any]) -> dict[str, Any]:
    return {"problem": came.problem, "pending": came.pending, "seconds": came.seconds, "money": came.money}


def _ask(asked: _Question[T]) -> _Came[T]:
    reviewer = open_reviewer(asked.context.reviewer, asked.context.open_completer)
    if held := _held(asked):
        return _Came(held)
    _check_money(asked.context, reviewer.settings.price)
    write_json(asked.file("request"), {**_about(asked), "asked": utc_now(), "question": asked.values})
    start, money = time.monotonic(), 0.0
    try:
        said, money = _said(asked, reviewer)
        came = _Came(asked.read(said), seconds=time.monotonic() - start, money=money)
    except ReviewPending as error:
        return _Came(None, str(error), pending=True)
    except (Interrupted, StorageError):
        raise
    except DataError as error:
        came = _Came(None, error.message, seconds=time.monotonic() - start, money=money)
    except RungError as error:
        came = _Came(None, str(error), seconds=time.monotonic() - start)
    except Exception as error:  # noqa: BLE001 - a reviewer from outside may raise anything, and none of it approves
        came = _Came(None, f"the reviewer failed: {type(error).__name__}: {error}", seconds=time.monotonic() - start)
    else:
        _keep(asked, came, said)
        return came
    _keep_failure(asked, came)
    return came


def _said(asked: _Question[T], reviewer: Reviewer) -> tuple[str, float]:
    """The reply's text and its cost."""
    text = canonical(asked.values)
    form = json.dumps(asked.form, indent=2) + "\n"
    said = reviewer.ask(Asked(asked.id, text, form, asked.file("form")))
    return said.text, reviewer.settings.price if said.money is None else said.money


def _held(asked: _Question[T]) -> T | None:
    """A reply on disk counts when the ledger knows it by its hash: one that was put there by hand is asked for anew."""
    path, entries = asked.file("reply"), Ledger(asked.context.folder).entries()
    known = {entry.seal.get(asked.id) for entry in entries if entry.event == "reviewed"}
    if not path.is_file() or hash_file(path) not in known:
        return None
    return asked.read(str(read_json(path)["text"]))


def _keep(asked: _Question[T], came: _Came[T], text: str) -> None:
    path = asked.file("reply")
    values = {**_about(asked), "answered": utc_now(), "seconds": came.seconds, "money": came.money}
    write_json(path, {**values, "reply": plain(came.reply), "text": redact(text)})
    outcome = "approved" if isinstance(came.reply, Approval) and came.reply.approved else "answered"
    _enter(asked, came, outcome, hash_file(path))


def _keep_failure(asked: _Question[T], came: _Came[T]) -> None:
    values = {**_about(asked), "ended": utc_now(), "seconds": came.seconds, "problem": redact(came.problem)}
    write_json(asked.file("failed"), values)
    _enter(asked, came, "failed", "")


def _enter(asked: _Question[T], came: _Came[T], outcome: str, reply_hash: str) -> None:
    """Waiting for a reviewer is not work of this machine, so its seconds are in the files and not in the spend."""
    Ledger(asked.context.folder).append(
        Entry(
            event="reviewed",
            stage=asked.context.stages[-1] if asked.context.stages else "review",
            fingerprint=reply_hash,
            outcome=outcome,
            message=redact(came.problem),
            spend=asdict(Spend(money=came.money)),
            seal={asked.id: reply_hash} if reply_hash else {},
        )
    )


def _about(asked: _Question[Any]) -> dict[str, Any]:
    return {
        "schema_version": _VERSION,
        "id": asked.id,
        "kind": asked.kind,
        "question_sha256": content_hash(asked.values),
        "reviewer": redact_all(asked.context.reviewer),
        "rung": rung.__version__,
    }


def _identity(reviewer: str | dict[str, Any]) -> Any:
    """Who is asked; how long is waited and what it costs may change without asking again."""
    if isinstance(reviewer, str):
        return {"kind": reviewer}
    return {key: value for key, value in reviewer.items() if key != "price" and not key.endswith("_seconds")}


def _check_money(context: ReviewContext, price: float) -> None:
    if context.money_left is not None and price > context.money_left:
        raise BudgetSpent(
            f"a review for {price:g} does not fit into the {context.money_left:.6g} that is left",
            place="budget.money",
            hint="raise it and run again to go on: --set budget.money=...",
        )
