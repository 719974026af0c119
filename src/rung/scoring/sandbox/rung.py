"""What a rung of the ladder is: a way to run programs, with its height."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from rung.scoring.sandbox.contract import Sandbox
from rung.scoring.sandbox.settings import SandboxSettings

__all__ = ["Rung"]


class Rung(ABC):
    """Base of the parts in `scoring/sandbox/rungs`; the higher `HEIGHT`, the sooner it is tried."""

    HEIGHT: ClassVar[int]
    SAFE: ClassVar[bool] = True

    @abstractmethod
    def absent(self) -> str:
        """What is missing on this machine, looked up without running anything; empty when a self-test is due."""

    @abstractmethod
    def build(self, settings: SandboxSettings) -> Sandbox:
        """A sandbox of this kind; its workers start when they are first needed."""
