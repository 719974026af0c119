"""Slots for networks that keep their own cache: there is one, and a step makes a whole answer."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from rung.engine.jobs import Job
from rung.engine.lane import Lane
from rung.engine.one_by_one import OneByOne
from rung.records.contracts import Completion
from rung.records.tokenizer import Tokenizer

__all__ = ["Whole"]


class _Gone(Exception):
    """Nobody waits for this answer any more."""


class Whole:
    """Keeps the manner of `rung.engine.batch.Batch`, so that whoever steps need not know which it is.

    Args:
        runner: makes the answers.
        tokenizer: its model's own.
        gone: asked after every token about the place of the job that runs; true ends it.
    """

    num_slots = 1

    def __init__(self, runner: OneByOne, tokenizer: Tokenizer, gone: Callable[[int], bool]) -> None:
        self._runner, self._tokenizer, self._gone = runner, tokenizer, gone
        self.lanes: list[Lane] = []

    def room(self, num_waiting: int) -> int:
        """1 when nothing runs and something waits."""
        return min(num_waiting, 1 - len(self.lanes))

    def taken_back(self) -> list[Job]:
        """None: there is no cache here that could be full."""
        return []

    def admit(self, jobs: Sequence[Job]) -> None:
        """Take a job; nothing is computed yet."""
        self.lanes += [Lane(job, self._tokenizer) for job in jobs]

    def step(self) -> list[Lane]:
        """The finished answer, or nothing where it was given up."""
        [lane] = self.lanes
        self.lanes = []

        def watch(num_new: int, num_done: int) -> None:
            """Stop as soon as the answer is not wanted."""
            if not num_done and self._gone(lane.job.place):
                raise _Gone

        try:
            [completion] = self._runner.run([lane.job], watch)
        except _Gone:
            return []
        return [_replayed(lane, completion)]

    def cancel(self, place: int) -> None:
        """Forget the job at `place`, if it is the one that was admitted."""
        self.lanes = [lane for lane in self.lanes if lane.job.place != place]


def _replayed(lane: Lane, completion: Completion) -> Lane:
    """The lane in the state in which the runner's own one ended."""
    lane.logprobs, lane.raw_logprobs = list(completion.logprobs), list(completion.raw_logprobs)
    lane.entropies, lane.supports = list(completion.entropies), list(completion.supports)
    for token in completion.token_ids:
        lane.take(token)
    return lane
