"""Warm workers in namespaces of their own: the default, and the only rung for programs that start programs.

A worker forks each program into fresh process, mount and message namespaces, on a private read-only root, with its own
temporary folder, without network, capabilities and most system calls. Needs a kernel that lets its user make user
namespaces (most do; containers often do not) and no package.
"""

from __future__ import annotations

import platform
import sys

from rung.scoring.sandbox.contract import Sandbox
from rung.scoring.sandbox.inside.numbers import MACHINE
from rung.scoring.sandbox.plan import plan_for
from rung.scoring.sandbox.pool import Pool
from rung.scoring.sandbox.rung import Rung
from rung.scoring.sandbox.settings import SandboxSettings
from rung.scoring.sandbox.worker import Worker

__all__ = ["Namespaces"]


class Namespaces(Rung):
    """See the module."""

    HEIGHT = 4

    def absent(self) -> str:
        """See the base."""
        if sys.platform != "linux" or platform.machine() != MACHINE:
            return f"needs Linux on {MACHINE}, this is {sys.platform} on {platform.machine()}"
        return ""

    def build(self, settings: SandboxSettings) -> Sandbox:
        """See the base."""

        def hire(slot: int) -> Worker:
            """The worker of a slot."""
            return Worker(plan_for(slot, settings.packages, namespaces=True))

        return Pool("namespaces", hire, settings, repository=True)
