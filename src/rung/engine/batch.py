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
    work.
    """

    def __init__(
        self, forward: Forward, sampler: Sampler, cache: Cache, tokenizer: Tokenizer, options: BatchOptions
    ) -> None:
        self._forward, self._sampler, self._cache = forward, sampler, cache
        self._tokenizer, self._options = tokenizer, options
        self._prefill = Prefill(forward, cache, options.prefill_chunk)
        self._lanes: list[Lane] = []
        self._done: dict[int, Completion] = {}

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job], on_step: Callable[[int, int], None]) -> list[Completion]:
        """All completions in the order of `jobs`. `on_step(num_new_tokens, num_finished)` follows every step; what it
        raises ends the run."""
        waiting = deque(jobs)
        self._admit(waiting)
        while self._lanes:
            num_running = len(self._lanes)
            self._step()
            self._retire()
            self._admit(waiting)
            on_step(num_running, len(self._done))
        return [self._done[job.place] for job in jobs]

    def _admit(self, waiting: deque[Job]) -> None:
        """Put waiting jobs into free slots, their prompts but the last token into the cache.

        A forward over a few short prompts costs little less than one over many, so a sixteenth of the slots is let run
        free before it is worth one.
        """
        num_slots = self._options.counts[-1]
        num_free = min(num_slots - len(self._lanes), len(waiting))
        if not num_free or (self._lanes and num_free < min(len(waiting), max(1, num_slots // 16))):
            return
        held = [Prompt(slot, lane.job.prompt_ids[:-1]) for slot, lane in enumerate(self._lanes)]
        jobs = [waiting.popleft() for _ in range(num_free)]
        arrivals = [Prompt(slot, job.prompt_ids[:-1]) for slot, job in enumerate(jobs, len(self._lanes))]
        self._prefill.run(arrivals, held)
        self._lanes += [Lane(job, self._tokenizer) for job in jobs]

    def _retire(self) -> None:
        """Take finished lanes out; the last lane fills the hole."""
        for slot in reversed(range(len(self._lanes))):
            lane = self._lanes[slot]
            if lane.finish_reason is None:
                continue
            self._done[lane.job.place] = lane.completion()
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
