"""What tests of a running engine share: a model that does not end, and a sink that keeps events."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

from tests.engine.engine_models import Made, llama

__all__ = ["Keep", "endless"]


def endless() -> Made:
    """A model that never draws an end token, so that long answers are long."""
    model = llama()
    return replace(model, tokenizer=replace(model.tokenizer, end_ids=()))


class Keep:
    """A sink that keeps its events."""

    def __init__(self) -> None:
        self.events: list[dict[str, Any]] = []

    def handle(self, event: dict[str, Any]) -> None:
        self.events.append(event)

    def close(self) -> None: ...
