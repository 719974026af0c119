"""Completers for the packaged models, one at a time: the next is loaded when the last is no longer held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from rung.engine.engine import Engine
from rung.models.load import load
from rung.records.contracts import Completer

__all__ = ["completers"]


def completers(sources: Sequence[str]) -> Iterator[tuple[str, Completer]]:
    """(source, engine) for each source; a model that the guard does not call clean is opened too, and says so."""
    for source in sources:
        yield source, Engine(load(source, precision="float32", strict=False))
