"""Completers for the packaged models, one at a time: the next is loaded when the last is no longer held."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from rung.engine.engine import Engine
from rung.models.load import load
from rung.models.network import Network
from rung.records.contracts import Completer
from rung.records.tokenizer import Tokenizer

__all__ = ["completers"]


@dataclass(frozen=True)
class _Named:
    """What the engine needs of a model, under the name that tables show."""

    name: str
    network: Network
    tokenizer: Tokenizer
    clean: bool


def completers(sources: Sequence[str]) -> Iterator[tuple[str, Completer]]:
    """(source, engine) for each source. A model that the guard does not call clean is opened all the same and says so."""
    for source in sources:
        loaded = load(source, precision="float32", strict=False)
        yield source, Engine(_Named(source, loaded.network, loaded.tokenizer, loaded.clean))
