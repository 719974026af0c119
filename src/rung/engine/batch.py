"""Continuous batching: a fixed number of slots, and finished sequences' places go to the next requests.

Legend: N slots in the step, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rung.engine.attend import Cache, DecodeAttend
from rung.engine.forward import Forward
from rung.engine.jobs import Job
from rung.engine.lane import Lane
from rung.engine.prefill import Prefill, Prompt
from rung.engine.sample import Sampler
from rung.records.contracts import Completion
from rung.records.tokenizer import Tokenizer

__all__ = ["Batch", "BatchOptions"]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """`counts`: the batch sizes that give the same bits, ascending; the last is the number of slots. `prefill_chunk`:
    prompt tokens computed at once."""

    counts: tuple[int, ...]
    prefill_chunk: int


class Batch:
    """Runs jobs to their ends. Running sequences occupy slots 0..n-1 of the cache; a step computes the smallest allowed
    count of rows that holds them, the rows above n reading token 0 to no purpose.

    The beginning of a prompt that a slot already holds is copied from there instead of computed again: same bits, less
    work. `lanes` are the running sequences, slot by slot.
    """

    def __init__(
        self, forward: Forward, sampler: Sampler, cache: Cache, tokenizer: Tokenizer, options: BatchOptions
    ) -> None:
        self._forward, self._sampler, self._cache = forward, sampler, cache
        self._tokenizer, self._options = tokenizer, options
        self._prefill = Prefill(forward, cache, options.prefill_chunk)
        self.lanes: list[Lane] = []

    @property
    def num_slots(self) -> int:
        """How many sequences run at once at most."""
        return self._options.counts[-1]

    def run(self, jobs: Sequence[Job], on_step: Callable[[int, int], None], done: dict[int, Completion]) -> None:
        """Put all completions into `done`, by the jobs' places. `on_step(num_new_tokens, num_finished)` follows every
        step; what it raises ends the run."""
        waiting = deque(jobs)
        self._take_from(waiting)
        while self.lanes:
            num_running = len(self.lanes)
            done.update({lane.job.place: lane.completion() for lane in self.step()})
            self._take_from(waiting)
            on_step(num_running, len(done))

    def _take_from(self, waiting: deque[Job]) -> None:
        self.admit([waiting.popleft() for _ in range(self.room(len(waiting)))])

    def room(self, num_waiting: int) -> int:
        """How many of `num_waiting` jobs to admit now.

        A forward over a few short prompts costs little less than one over many, so a sixteenth of the slots is let run
        free before it is worth one.
        """
        num_free = min(self.num_slots - len(self.lanes), num_waiting)
        worth_it = not self.lanes or num_free >= min(num_waiting, max(1, self.num_slots // 16))
        return num_free if worth_it else 0

    @torch.inference_mode()
    def admit(self, jobs: Sequence[Job]) -> None:
        """Put jobs, no more than `room`, into free slots, their prompts but the last token into the cache."""
        if not jobs:
            return
        held = [Prompt(lane.job.prompt_ids[:-1], slot) for slot, lane in enumerate(self.lanes)]
        arrivals = [Prompt(job.prompt_ids[:-1], slot) for slot, job in enumerate(jobs, len(self.lanes))]
        self._prefill.run(arrivals, held)
        self.lanes += [Lane(job, self._tokenizer) for job in jobs]

    @torch.inference_mode()
    def step(self) -> list[Lane]:
        """One new token for every lane; those that it ended leave and are returned."""
        self._decode()
        finished = [lane for lane in self.lanes if lane.finish_reason is not None]
        for slot in reversed(range(len(self.lanes))):
            if self.lanes[slot].finish_reason is not None:
                self._free(slot)
        return finished

    @torch.inference_mode()
    def cancel(self, place: int) -> None:
        """Free the slot of the job at `place`, if it runs."""
        for slot, lane in enumerate(self.lanes):
            if lane.job.place == place:
                self._free(slot)
                return

    def _free(self, slot: int) -> None:
        """Take a lane out; the last lane fills the hole."""
        last = self.lanes.pop()
        if slot < len(self.lanes):
            self._cache.copy(len(self.lanes), slot, last.position)
            self.lanes[slot] = last

    def _decode(self) -> None:
        lanes = self.lanes
        num_rows = next(count for count in self._options.counts if count >= len(lanes))
        spare = num_rows - len(lanes)
        positions = [lane.position for lane in lanes] + [0] * spare
        tokens = [lane.token for lane in lanes] + [0] * spare
        self._cache.reserve(max(positions) + 1)
        hidden_N1D = self._forward.hidden(
            [[token] for token in tokens], [[position] for position in positions], DecodeAttend(self._cache, positions)
        )
        self._sampler.step(lanes, hidden_N1D[:, 0])
