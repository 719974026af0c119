"""The engine with the sharing of prompts taken out: what a group costs without it, token for token the same answers.

Two places share: a prompt lies in the cache once for all who go on from it, and what a prompt begins with in common
with another is copied. Both go by equality of ids, so each prompt becomes a sequence of ids that equals only its own.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from typing import Any
from unittest.mock import patch

from rung.engine import prefill
from rung.engine.engine import Engine, Intake
from rung.engine.jobs import Job
from rung.engine.tree import num_common
from rung.records.contracts import Request

__all__ = ["unshared"]


class _Own(tuple[int, ...]):
    """Token ids of one owner; those of another are never equal to them, whatever they hold."""

    owner: int

    @classmethod
    def of(cls, ids: Sequence[int], owner: int) -> _Own:
        """The ids of number `owner`."""
        made = cls(ids)
        made.owner = owner
        return made

    def __getitem__(self, place: Any) -> Any:
        found = super().__getitem__(place)
        return _Own.of(found, self.owner) if isinstance(place, slice) else found

    def __eq__(self, other: object) -> bool:
        return isinstance(other, _Own) and other.owner == self.owner and super().__eq__(other)

    def __hash__(self) -> int:
        return hash((self.owner, super().__hash__()))


class _Apart(Intake):
    """Jobs whose prompts have nothing in common with each other's."""

    def jobs(self, requests: Sequence[Request]) -> list[Job]:
        """As the engine makes them, each prompt its own."""
        return [replace(job, prompt_ids=_Own.of(job.prompt_ids, job.place)) for job in super().jobs(requests)]


@contextmanager
def unshared(engine: Engine) -> Iterator[None]:
    """The engine without sharing, and afterwards as it was."""
    intake = engine.intake
    engine.intake = _Apart(intake.tokenizer, intake.max_context, intake.vocabulary, intake.compiler, intake.alone)
    try:
        with patch.object(prefill, "num_common", _common_of_one_owner):
            yield
    finally:
        engine.intake = intake


def _common_of_one_owner(first: _Own, second: _Own) -> int:
    return num_common(first, second) if first.owner == second.owner else 0
