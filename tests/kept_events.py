"""A sink for tests that look at events."""

from __future__ import annotations

from typing import Any


class Kept:
    """Keeps every event."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def handle(self, event: dict[str, Any]) -> None:
        """Keep it."""
        self.events.append(event)

    def close(self) -> None:
        """Nothing."""
