"""Continuous batching: a fixed number of slots, and a finished sequence's place goes to the next request at once.

Legend: N slots in the step, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch

from rung.engine.attend import Cache, DecodeAttend, PrefillAttend
from rung.engine.forward import Forward
from rung.engine.jobs import Job
from rung.engine.lane import Lane
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

    A prompt that a slot already holds is copied from there instead of computed again: same bits, less work.
    """

    def __init__(
        self, forward: Forward, sampler: Sampler, cache: Cache, tokenizer: Tokenizer, options: BatchOptions
    ) -> None:
        self._forward, self._sampler, self._cache = forward, sampler, cache
        self._tokenizer, self._options = tokenizer, options
        self._lanes: list[Lane] = []
        self._done: dict[int, Completion] = {}

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job], on_step: Callable[[int, int], None]) -> list[Completion]:
        """All completions in the order of `jobs`. `on_step(num_new_tokens, num_finished)` follows every step; what it
        raises ends the run."""
        waiting = deque(jobs)
        while waiting and len(self._lanes) < self._options.counts[-1]:
            self._admit(waiting.popleft(), len(self._lanes))
        while self._lanes:
            num_running = len(self._lanes)
            self._step()
            self._retire(waiting)
            on_step(num_running, len(self._done))
        return [self._done[job.place] for job in jobs]

    def _admit(self, job: Job, slot: int) -> None:
        """Put a job into a slot, its prompt but the last token into the cache."""
        ids = job.prompt_ids[:-1]
        held = [s for s, lane in enumerate(self._lanes) if lane.job.prompt_ids[:-1] == ids]
        self._cache.reserve(len(job.prompt_ids))
        if slot not in held and held:
            self._cache.copy(held[0], slot, len(ids))
        elif not held:
            self._prefill(ids, slot)
        self._lanes[slot : slot + 1] = [Lane(job, self._tokenizer)]

    def _prefill(self, ids: tuple[int, ...], slot: int) -> None:
        step = self._options.prefill_chunk
        for start in range(0, len(ids), step):
            piece = ids[start : start + step]
            attend = PrefillAttend(self._cache, slot, start)
            self._forward.hidden([piece], [range(start, start + len(piece))], attend)

    def _retire(self, waiting: deque[Job]) -> None:
        """Take finished lanes out; the next job, or else the last lane, fills the hole."""
        for slot in reversed(range(len(self._lanes))):
            lane = self._lanes[slot]
            if lane.finish_reason is None:
                continue
            self._done[lane.job.place] = lane.completion()
            if waiting:
                self._admit(waiting.popleft(), slot)
                continue
            last = self._lanes.pop()
            if slot < len(self._lanes):
                self._cache.copy(len(self._lanes), slot, last.position)
                self._lanes[slot] = last

    def _step(self) -> None:
        """One new token for every lane."""
        lanes = self._lanes
        num_rows = next(count for count in self._options.counts if count >= len(lanes))
        spare = num_rows - len(lanes)
        positions = [lane.position for lane in lanes] + [0] * spare
        tokens = [lane.token for lane in lanes] + [0] * spare
        self._cache.reserve(max(positions) + 1)
        hidden_N1D = self._forward.hidden(
            [[token] for token in tokens], [[position] for position in positions], DecodeAttend(self._cache, positions)
        )
        self._sampler.step(lanes, hidden_N1D[:, 0])
