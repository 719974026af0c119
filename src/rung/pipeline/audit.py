"""`rung audit`: the checks that catch silent bugs before a run is paid for, run one after another, none trusted.

A check is a file in pipeline/checks; it looks at a subject (the pipeline's own callables on the recipe's own model and
data) and answers with an outcome. What reads text and ids alone runs first, what runs the model last. A check that
breaks has not passed: its exception is a failed finding, and the checks after it still run.
"""

from __future__ import annotations

import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Literal

from rung.base.errors import Interrupted
from rung.base.lookup import known, part
from rung.base.settings import Settings as BaseSettings

__all__ = ["FOLDER", "Check", "Finding", "Outcome", "audit", "not_applicable", "planned", "verdict"]

FOLDER = "pipeline.checks"
_SHOWN = 3

Result = Literal["passed", "failed", "not applicable"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a check found, and the evidence for it: counts and worst deviations when it passed, places when not."""

    result: Result
    evidence: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the audit's table; `guards` is the bug that the check exists for."""

    check: str
    guards: str
    result: Result
    evidence: str
    seconds: float


class Check(ABC):
    """Base of the files in pipeline/checks.

    `guards` names the bug in a few words; `runs_model` says whether the network is run (those come last).
    """

    Settings: ClassVar[type[BaseSettings]] = BaseSettings
    guards: ClassVar[str]
    runs_model: ClassVar[bool] = False

    def __init__(self, settings: Any) -> None:
        self.settings = settings

    @abstractmethod
    def run(self, subject: Any) -> Outcome:
        """Look at a `rung.pipeline.checks._subject.Subject`; it is left as it was found."""


def verdict(problems: Sequence[str], evidence: str) -> Outcome:
    """Passed with `evidence` when there are no problems, else failed with the first few of them and their number."""
    if not problems:
        return Outcome("passed", evidence)
    more = f"; and {len(problems) - _SHOWN} more" if len(problems) > _SHOWN else ""
    return Outcome("failed", "; ".join(problems[:_SHOWN]) + more)


def not_applicable(reason: str) -> Outcome:
    """The check has nothing to look at here, and says why; this neither passes nor fails."""
    return Outcome("not applicable", reason)


def planned(only: Sequence[str] = ()) -> list[tuple[str, Check]]:
    """The checks by name in the order in which they run; `only` names some of them, or a user's own `module:Class`.

    Raises:
        SettingsError: an unknown name; the known ones are listed.
    """
    made = []
    for name in only or known(FOLDER):
        kind, settings = part(FOLDER, name, "--only")
        made.append((name, kind(settings)))
    return sorted(made, key=lambda pair: (pair[1].runs_model, pair[0]))


def audit(
    subject: Any, only: Sequence[str] = (), on_finding: Callable[[Finding], None] = lambda finding: None
) -> tuple[Finding, ...]:
    """Run the checks and return what each found; `on_finding` hears of each as it ends.

    Raises:
        SettingsError: `only` names an unknown check, before any runs.
        Interrupted: somebody asked to stop.
    """
    findings = []
    for name, check in planned(only):
        finding = _found(name, check, subject)
        on_finding(finding)
        findings.append(finding)
    return tuple(findings)


def _found(name: str, check: Check, subject: Any) -> Finding:
    start = time.perf_counter()
    try:
        outcome = check.run(subject)
    except Interrupted:
        raise
    except Exception as error:  # noqa: BLE001 - whatever breaks a check is its finding
        outcome = Outcome("failed", f"the check broke off: {type(error).__name__}: {error}")
    return Finding(name, check.guards, outcome.result, outcome.evidence, time.perf_counter() - start)
