"""One error model: every error has a code, a cause in words, the place it concerns and a hint.

`exit_code` is what the command line returns; docs/ERRORS.md lists them.
"""

from __future__ import annotations

__all__ = [
    "BudgetSpent",
    "Busy",
    "DataError",
    "Drift",
    "GateFailed",
    "GuardFailed",
    "Incomplete",
    "Interrupted",
    "MissingDependency",
    "ModelError",
    "ProviderFailed",
    "ReviewPending",
    "RungError",
    "SettingsError",
    "StorageError",
    "WorkerLost",
]


class RungError(Exception):
    """Base of all named endings.

    Args:
        message: what went wrong, in one sentence, with the offending value.
        place: where (a recipe path, a file and line, a stage), empty when the message says it.
        hint: the one thing to do about it, as a command where there is one.
    """

    code = "error"
    exit_code = 1
    resumable = False

    def __init__(self, message: str, *, place: str = "", hint: str = "") -> None:
        super().__init__(message)
        self.message, self.place, self.hint = message, place, hint

    def __str__(self) -> str:
        where = f"{self.place}: " if self.place else ""
        how = f"\n  hint: {self.hint}" if self.hint else ""
        return f"{where}{self.message}{how}"


class SettingsError(RungError):
    """A recipe, profile or command-line value is unknown, of the wrong type, out of range or contradictory."""

    code, exit_code = "settings", 2


class DataError(RungError):
    """Records, shards or manifests that are missing, broken or do not match their hashes."""

    code, exit_code = "data", 3


class GateFailed(RungError):
    """A gate looked at recomputed figures and said no, or refused to decide on too few samples."""

    code, exit_code = "gate", 4


class BudgetSpent(RungError):
    """A cap on tokens, seconds or money would be passed by the next piece of work; the run can be resumed."""

    code, exit_code, resumable = "budget", 5, True


class Drift(RungError):
    """A finished output has another fingerprint than the recipe now asks for."""

    code, exit_code = "drift", 6


class ModelError(RungError):
    """A model or tokenizer cannot be found, read or used for what was asked."""

    code, exit_code = "model", 7


class GuardFailed(ModelError):
    """The clean loader found that a base model is not one (template tokens, extra ids, instruction-following)."""

    code = "guard"


class MissingDependency(RungError):
    """An optional package is needed for what was asked."""

    code, exit_code = "dependency", 8


class Busy(RungError):
    """Another process works on the same run folder."""

    code, exit_code = "busy", 9


class ProviderFailed(RungError):
    """An outside provider refused a request, or failed till attempts or time were used up; what it answered is kept."""

    code, exit_code, resumable = "provider", 10, True


class ReviewPending(RungError):
    """A review was asked for and is not answered yet; the same command picks the answer up."""

    code, exit_code, resumable = "review", 13, True


class StorageError(RungError):
    """The disk refused a write (full, read-only); nothing was half-written."""

    code, exit_code = "storage", 74


class Interrupted(RungError):
    """Ctrl-C or SIGTERM; everything finished so far is on disk and the same command goes on from there."""

    code, exit_code, resumable = "interrupted", 75, True


class Incomplete(RungError):
    """Only some shards of a stage were asked for and they are done; the others are still to be made or collected."""

    code, exit_code, resumable = "incomplete", 11, True


class WorkerLost(RungError):
    """A worker process died or hung as often as is allowed; the shards of the others are kept."""

    code, exit_code, resumable = "worker", 12, True
