"""The sandboxes that graders are tested on: the stand-in, and the real one where this kernel lets it stand."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
from tests.scoring.pipe_sandbox import PipeSandbox

from rung.scoring.sandbox.contract import Limits, Outcome, Sandbox, SandboxRefused, Verdict
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.settings import SandboxSettings


def real() -> Any:
    """The highest rung that holds here."""
    try:
        return climb(SandboxSettings(slots=1)).sandbox
    except SandboxRefused as error:
        pytest.skip(str(error))


def skip_where_the_kernel_denies(sandbox: Sandbox) -> None:
    """Only for that reason: a sandbox that fails in another way fails its tests."""
    first = sandbox.run("pass")
    if first.verdict == Verdict.INFRASTRUCTURE and "denied" in first.detail:
        sandbox.close()
        pytest.skip(first.detail)
    assert first.verdict == Verdict.OK, first.detail


SANDBOXES: dict[str, Callable[[], Any]] = {"pipe": PipeSandbox, "real": real}


def piped(settings: SandboxSettings) -> tuple[Any, dict[str, object]]:
    """The stand-in as workers open it."""
    return PipeSandbox(), {"rung": "pipe"}


def refusing(settings: SandboxSettings) -> tuple[Any, dict[str, object]]:
    """No sandbox at all."""
    raise SandboxRefused("no rung holds here")


class Failing(PipeSandbox):
    """A sandbox whose programs end by no fault of their own."""

    def open(self, source: str, limits: Limits | None = None) -> Any:
        guest: Any = super().open("raise SystemExit")
        failed = Outcome(Verdict.INFRASTRUCTURE, b"", b"", 0.0, 0.0, None, "the worker was lost", "pipe")
        end = guest.end
        guest.end = lambda: (end(), failed)[1]
        return guest


def failing(settings: SandboxSettings) -> tuple[Any, dict[str, object]]:
    """One whose every program is lost."""
    return Failing(), {}
