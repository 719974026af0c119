"""No isolation: a process with limits, and nothing else. It reads your files, uses your network, leaves daemons.

For looking at a program you would run anyway, where no rung exists (`unsafe_plain_subprocess`). It is never used for
rewards, whatever the settings say.
"""

from __future__ import annotations

from rung.scoring.sandbox.contract import Sandbox
from rung.scoring.sandbox.plan import plan_for
from rung.scoring.sandbox.pool import Pool
from rung.scoring.sandbox.rung import Rung
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.sandbox.worker import Worker

__all__ = ["UnsafeSubprocess"]


class UnsafeSubprocess(Rung):
    """See the module."""

    HEIGHT = 0
    SAFE = False

    def absent(self) -> str:
        """See the base."""
        return ""

    def build(self, settings: SandboxSettings) -> Sandbox:
        """See the base."""

        def hire(slot: int) -> Worker:
            """The worker of a slot."""
            return Worker(plan_for(slot, settings.packages, namespaces=False, hardened=False))

        return Pool("unsafe_subprocess", hire, settings, repository=False)
