"""Warm workers without namespaces: where a container's own rules forbid them. Programs of one process only.

Landlock (version 6 or newer: no TCP, no signals, no abstract sockets to the outside), a filter of system calls, limits
and, as root, a user of their own. A program may read the interpreter and the system's libraries and write nothing: a
folder without a size limit would be a way to fill the disk. It may not start programs: without a process namespace
nothing would end those it leaves behind.
"""

from __future__ import annotations

import platform
import sys

from rung.scoring.sandbox.contract import Sandbox
from rung.scoring.sandbox.inside import landlock
from rung.scoring.sandbox.inside.numbers import MACHINE
from rung.scoring.sandbox.plan import plan_for
from rung.scoring.sandbox.pool import Pool
from rung.scoring.sandbox.rung import Rung
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.sandbox.worker import Worker

__all__ = ["Landlock"]

_VERSION = 6


class Landlock(Rung):
    """See the module."""

    HEIGHT = 2

    def absent(self) -> str:
        """See the base."""
        if sys.platform != "linux" or platform.machine() != MACHINE:
            return f"needs Linux on {MACHINE}, this is {sys.platform} on {platform.machine()}"
        known = landlock.version()
        return "" if known >= _VERSION else f"needs Landlock {_VERSION} or newer, this kernel has {known}"

    def build(self, settings: SandboxSettings) -> Sandbox:
        """See the base."""

        def hire(slot: int) -> Worker:
            """The worker of a slot."""
            return Worker(plan_for(slot, settings.packages, namespaces=False))

        return Pool("landlock", hire, settings, repository=False)
