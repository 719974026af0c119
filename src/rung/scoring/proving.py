"""Proofs as verifiers ask for them: what each outcome earns, what was asked before, and where the time went.

The statement is always the task's; a model's text only fills the place that the task leaves open. Unknown is no
success: by default it abstains, so that an answer too hard to judge earns and costs nothing.
"""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, Literal

from rung.base.errors import SettingsError, WorkerLost
from rung.base.fingerprint import canonical
from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.apart.client import Apart, Overrun, shared

__all__ = ["Proof", "ProofSettings", "Prover", "TimeSpent", "prover"]

Outcome = Literal["proved", "refuted", "unknown", "refused", "broken", "vacuous"]
Domain = Literal["int", "real", "bits8", "bits16", "bits32", "bits64"]
_KEPT = 20_000


class ProofSettings(Settings):
    """Numbers, effort, and what each outcome earns; None abstains."""

    domain: Domain = Field(default="int", description="unbounded integers, reals, or machine integers that wrap")
    effort: int = Field(default=3_000_000, ge=1000, description="limit per query in Z3's own units, about 2 s")
    seconds: float = Field(default=20.0, gt=0, le=300, description="processor seconds, a backstop behind the effort")
    proved: float | None = Field(default=1.0, ge=0, le=1, description="what a proof earns")
    refuted: float | None = Field(default=0.0, ge=0, le=1, description="what a counter-example earns")
    refused: float | None = Field(default=0.0, ge=0, le=1, description="what a text outside the language earns")
    unknown: float | None = Field(default=None, ge=0, lt=1, description="what an undecided answer earns; null abstains")

    def model_post_init(self, context: Any) -> None:
        """Unknown must never earn what a proof earns."""
        if self.unknown is not None and self.unknown >= (self.proved or 0.0):
            raise SettingsError(f"unknown earns {self.unknown:g}, a proof {self.proved or 0.0:g}", hint="lower it")


@dataclass(frozen=True, slots=True)
class Proof:
    """How a query ended. `point` are the counter-example's values, `seconds` of waiting (0 when it was known)."""

    outcome: Outcome
    reason: str
    point: Mapping[str, str] = field(default_factory=dict)
    effort: int = 0
    seconds: float = 0.0
    known: bool = False

    def score(self, settings: ProofSettings) -> Score:
        """What the outcome earns; a statement that is broken or follows from nothing judges nobody."""
        earned = {"proved": settings.proved, "refuted": settings.refuted, "refused": settings.refused}
        value = settings.unknown if self.outcome == "unknown" else earned.get(self.outcome)
        return Score(value, f"{self.outcome}: {self.reason}", abstained=value is None)


@dataclass(frozen=True, slots=True)
class TimeSpent:
    """One row of the overhead table: queries of one outcome, of them answered from the cache, seconds, effort."""

    outcome: str
    queries: int
    known: int
    seconds: float
    effort: int


class Prover:
    """Asks the proving process, remembers its answers and counts the time."""

    def __init__(self, apart: Apart, kept: int = _KEPT) -> None:
        self._apart, self._kept = apart, kept
        self._answers: OrderedDict[str, Proof] = OrderedDict()
        self._spent: dict[str, TimeSpent] = {}

    def prove(self, ask: Mapping[str, Any], settings: ProofSettings) -> Proof:
        """The outcome of one query; a process that was killed for its time or memory leaves it unknown.

        Raises:
            MissingDependency: Z3 is not installed.
        """
        full = {**ask, "domain": settings.domain, "effort": settings.effort}
        key = canonical({**full, "seconds": settings.seconds})
        if key in self._answers:
            self._answers.move_to_end(key)
            found = self._answers[key]
            proof = Proof(found.outcome, found.reason, found.point, found.effort, 0.0, True)
        else:
            proof = self._asked(full, settings)
            self._answers[key] = proof
            if len(self._answers) > self._kept:
                self._answers.popitem(last=False)
        self._count(proof)
        return proof

    def table(self) -> list[TimeSpent]:
        """Where the time went, one row per outcome."""
        return [self._spent[name] for name in sorted(self._spent)]

    def _asked(self, full: Mapping[str, Any], settings: ProofSettings) -> Proof:
        start = time.perf_counter()
        try:
            found = self._apart.call(full, settings.seconds)
        except Overrun as overrun:
            return Proof("unknown", str(overrun), seconds=time.perf_counter() - start)
        except WorkerLost as lost:
            return Proof("broken", lost.message, seconds=time.perf_counter() - start)
        seconds = time.perf_counter() - start
        return Proof(found["outcome"], found["reason"], found["point"], found["effort"], seconds)

    def _count(self, proof: Proof) -> None:
        row = self._spent.get(proof.outcome, TimeSpent(proof.outcome, 0, 0, 0.0, 0))
        effort = 0 if proof.known else proof.effort
        self._spent[proof.outcome] = TimeSpent(
            proof.outcome, row.queries + 1, row.known + proof.known, row.seconds + proof.seconds, row.effort + effort
        )


@lru_cache(maxsize=1)
def prover() -> Prover:
    """The one that all verifiers of this process share."""
    return Prover(shared("proofs"))
