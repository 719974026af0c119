"""What every rung of the sandbox promises: run a program under limits, or keep one running and talk to it in bytes.

A program is Python source; nothing of the caller (tests, answers, keys, descriptors) is in its process. Whatever
comes back from it is merely bytes: who reads them decides what they mean. An infrastructure verdict says that the
sandbox failed, not the program; it is never a score.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from rung.base.errors import RungError

__all__ = ["Guest", "GuestGone", "GuestSlow", "Limits", "Outcome", "Sandbox", "SandboxRefused", "Verdict"]


class Verdict(StrEnum):
    """How a program ended. Everything but `INFRASTRUCTURE` is the program's own doing."""

    OK = "ok"
    FAILED = "failed"
    CPU_LIMIT = "cpu_limit"
    WALL_LIMIT = "wall_limit"
    MEMORY = "memory"
    OUTPUT_LIMIT = "output_limit"
    REFUSED = "refused"
    KILLED = "killed"
    INFRASTRUCTURE = "infrastructure"


@dataclass(frozen=True, slots=True)
class Limits:
    """What one program may use. Processor seconds decide; wall seconds are a backstop against sleeping.

    Args:
        cpu_seconds: processor time of all the program's threads and processes together.
        wall_seconds: time on the clock, several times the processor time, so that a busy machine flips no verdict.
        memory_bytes: address space a process may map, and what all processes may hold together.
        output_bytes: standard output and standard error together; one byte more ends the program.
        file_bytes: room in its temporary folder, its only writable place.
        processes: 1 is the profile `function` (no fork, no exec, no sockets but pairs); more is `repository`.
    """

    cpu_seconds: float = 5.0
    wall_seconds: float = 30.0
    memory_bytes: int = 512 << 20
    output_bytes: int = 1 << 20
    file_bytes: int = 16 << 20
    processes: int = 1


@dataclass(frozen=True, slots=True)
class Outcome:
    """How one program went.

    `exit_code` is None when it did not end by itself; `detail` says in words what stopped it; `rung` names the rung
    of the ladder that ran it.
    """

    verdict: Verdict
    stdout: bytes
    stderr: bytes
    cpu_seconds: float
    wall_seconds: float
    exit_code: int | None
    detail: str
    rung: str


class GuestGone(RungError):
    """The program that was asked has ended or closed its descriptor; `Guest.end` says why."""

    code = "guest_gone"


class GuestSlow(RungError):
    """The program did not answer within the seconds that it was given."""

    code = "guest_slow"


class SandboxRefused(RungError):
    """No rung of the ladder that reaches the floor passed its self-test here, so nothing is run."""

    code = "sandbox_refused"


class Guest(Protocol):
    """One running program, alone in its job."""

    def send(self, data: bytes) -> None:
        """Write all of `data` to the program's descriptor `_requests`, however slowly it reads. Raises GuestGone."""

    def receive(self, num_bytes: int, wall_seconds: float) -> bytes:
        """Exactly `num_bytes` from the program's descriptor `_answers`. Raises GuestGone, GuestSlow."""

    def end(self) -> Outcome:
        """Kill what still runs and say how it went; the same answer every time. OK when it was killed only here."""


class Sandbox(Protocol):
    """Runs programs, each alone and fresh; may be used from several threads."""

    def run(self, source: str, limits: Limits = ..., stdin: bytes = b"") -> Outcome:
        """Run `source` as a program to its end."""

    def open(self, source: str, limits: Limits = ...) -> Guest:
        """Start `source` with two more globals, the descriptors `_requests` (to read) and `_answers` (to write)."""

    def close(self) -> None:
        """End every worker and every program; closing twice is nothing."""
