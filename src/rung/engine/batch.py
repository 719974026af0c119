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
from rung.engine.steering.park import Parked, park, restore
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
    work. `lanes` are the running sequences, slot by slot. Where the cache has a limit and they grow beyond it, the
    least advanced are sent back: `taken_back` gives their jobs to whoever admits, and they begin again from the prompt,
    which gives the same tokens. Those that pause leave their slots with what these held: `parked` gives them to whoever
    resumes them, and `take_in` lets them go on.
    """

    def __init__(
        self, forward: Forward, sampler: Sampler, cache: Cache, tokenizer: Tokenizer, options: BatchOptions
    ) -> None:
        self._forward, self._sampler, self._cache = forward, sampler, cache
        self._tokenizer, self._options = tokenizer, options
        self._prefill = Prefill(forward, cache, options.prefill_chunk)
        self.lanes: list[Lane] = []
        self._sent_back: list[Job] = []
        self._parked: list[Parked] = []

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
            finished = self.step()
            done.update({lane.job.place: lane.completion() for lane in finished})
            num_new = len(self.lanes) + len(finished)
            self._take_from(waiting)
            on_step(num_new, len(done))

    def _take_from(self, waiting: deque[Job]) -> None:
        waiting.extendleft(reversed(self.taken_back()))
        self.admit([waiting.popleft() for _ in range(self.room(len(waiting)))])
        waiting.extendleft(reversed(self.taken_back()))

    def taken_back(self) -> list[Job]:
        """The jobs that were sent back since it was last asked, the first admitted first."""
        jobs, self._sent_back = sorted(self._sent_back, key=lambda job: job.place), []
        return jobs

    def parked(self) -> list[Parked]:
        """The sequences that paused since it was last asked."""
        parked, self._parked = self._parked, []
        return parked

    @torch.inference_mode()
    def take_in(self, parked: Parked) -> None:
        """Let a sequence that paused go on, in a free slot; sent back where its length leaves no room for it."""
        lane, count = parked.lane, len(self.lanes) + 1
        longest = max(self._longest(), lane.position + 1)
        if count > min(self.num_slots, self._affordable(longest)):
            self._sent_back.append(lane.job)
            return
        self._fit(count, longest)
        restore(parked, self._cache, count - 1)
        self.lanes.append(lane)

    def room(self, num_waiting: int) -> int:
        """How many of `num_waiting` jobs to admit now.

        A forward over a few short prompts costs little less than one over many, so a sixteenth of the slots is let run
        free before it is worth one.
        """
        most = min(self.num_slots, self._affordable(self._longest()))
        num_free = min(most - len(self.lanes), num_waiting)
        worth_it = not self.lanes or num_free >= min(num_waiting, max(1, self.num_slots // 16))
        return num_free if worth_it else 0

    @torch.inference_mode()
    def admit(self, jobs: Sequence[Job]) -> None:
        """Put jobs, no more than `room`, into free slots, their prompts but the last token into the cache; those whose
        length leaves no room for them are sent back."""
        num_new, longest = len(jobs), self._longest()
        while num_new and len(self.lanes) + num_new > self._affordable(max(longest, *_lengths(jobs[:num_new]))):
            num_new -= 1
        self._sent_back += jobs[num_new:]
        if not num_new:
            return
        jobs = jobs[:num_new]
        self._fit(len(self.lanes) + num_new, max(longest, *_lengths(jobs)))
        held = [Prompt(lane.job.prompt_ids[:-1], slot) for slot, lane in enumerate(self.lanes)]
        arrivals = [Prompt(job.prompt_ids[:-1], slot) for slot, job in enumerate(jobs, len(self.lanes))]
        self._prefill.run(arrivals, held)
        self.lanes += [Lane(job, self._tokenizer) for job in jobs]

    @torch.inference_mode()
    def step(self) -> list[Lane]:
        """One new token for every lane that is not sent back; those that it ended leave and are returned, those that
        it paused leave too."""
        while len(self.lanes) > self._affordable(self._longest()):
            least = min(reversed(range(len(self.lanes))), key=lambda slot: len(self.lanes[slot].token_ids))
            self._sent_back.append(self.lanes[least].job)
            self._free(least)
        self._decode()
        finished = [lane for lane in self.lanes if lane.finish_reason is not None]
        for slot in reversed(range(len(self.lanes))):
            if self.lanes[slot].paused:
                self._parked.append(park(self.lanes[slot], self._cache, slot, self._forward.network))
            if self.lanes[slot].paused or self.lanes[slot].finish_reason is not None:
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

    def _longest(self) -> int:
        """Positions that the longest lane needs for its next token; 1 without lanes."""
        return max((lane.position for lane in self.lanes), default=0) + 1

    def _affordable(self, num_positions: int) -> int:
        """How many sequences may run when the longest has so many positions: a batch size, never none."""
        counts, most = self._options.counts, self._cache.affordable(num_positions)
        return max((count for count in counts if count <= most), default=counts[0])

    def _fit(self, num_lanes: int, num_positions: int) -> None:
        """Give the cache room for the longest sequence and rows for all; within its limit, if it has one."""
        cache, num_rows = self._cache, self._rows(num_lanes)
        within = cache.num_slots <= self._affordable(max(num_positions, cache.capacity))
        if num_rows > cache.num_slots or not within:
            cache.resize(min(self.num_slots, self._affordable(num_positions)), num_positions)
        cache.reserve(num_positions)

    def _rows(self, num_lanes: int) -> int:
        return next(count for count in self._options.counts if count >= num_lanes)

    def _decode(self) -> None:
        lanes = self.lanes
        num_rows = self._rows(len(lanes))
        spare = num_rows - len(lanes)
        positions = [lane.position for lane in lanes] + [0] * spare
        tokens = [lane.token for lane in lanes] + [0] * spare
        self._fit(len(lanes), max(positions) + 1)
        hidden_N1D = self._forward.hidden(
            [[token] for token in tokens], [[position] for position in positions], DecodeAttend(self._cache, positions)
        )
        self._sampler.step(lanes, hidden_N1D[:, 0])


def _lengths(jobs: Sequence[Job]) -> list[int]:
    """Positions that each needs for its first token."""
    return [len(job.prompt_ids) for job in jobs]
