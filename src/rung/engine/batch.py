"""Continuous batching: a fixed number of slots, and finished sequences' places go to the next requests.

Legend: R rows of a step, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import torch

from rung.engine.decode import DecodeAttend, Place
from rung.engine.forward import Forward
from rung.engine.invariance import COMMON
from rung.engine.jobs import Job
from rung.engine.lane import Lane, Row
from rung.engine.prefill import Prefill, Prompt
from rung.engine.prefixes import SHORT, Prefix, Prefixes
from rung.engine.sample import Sampler
from rung.engine.steering.park import Parked, park, restore
from rung.engine.store import Need, Store
from rung.records.contracts import Completion
from rung.records.tokenizer import Tokenizer

__all__ = ["Batch", "BatchOptions"]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """`num_slots`: sequences at once. `counts`: the numbers of rows that give the same bits, ascending; the last holds
    all slots. `prefill_chunk`: prompt tokens computed at once."""

    num_slots: int
    counts: tuple[int, ...]
    prefill_chunk: int


class Batch:
    """Runs jobs to their ends. Running sequences occupy slots 0..n-1 of the own parts' cache; a step computes the
    smallest allowed count of rows that holds them, the rows above n reading token 0 to no purpose.

    A prompt is computed and kept once, however many sequences go on from it, and what it begins with in common with
    another is copied from there: same bits, less work. A short one is copied before each of them: to read it again
    costs less than to put together what two caches show. `lanes` are the running sequences, slot by slot. Where the
    caches have a limit and they grow beyond it, the least advanced are sent back: `taken_back` gives their jobs to
    whoever admits, and they begin again from the prompt, which gives the same tokens. Those that pause leave their
    slots with what these held: `parked` gives them to whoever resumes them, and `take_in` lets them go on.
    """

    def __init__(
        self, forward: Forward, sampler: Sampler, store: Store, tokenizer: Tokenizer, options: BatchOptions
    ) -> None:
        self._forward, self._sampler, self._store = forward, sampler, store
        self._tokenizer, self._options = tokenizer, options
        self._prefill = Prefill(forward, store.prefixes, options.prefill_chunk)
        self._prefixes = Prefixes(store.prefixes)
        self.lanes: list[Lane] = []
        self._sent_back: list[Job] = []
        self._parked: list[Parked] = []

    @property
    def num_slots(self) -> int:
        """How many sequences run at once at most."""
        return self._options.num_slots

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
        lane = parked.lane
        need = self._need([*self.lanes, lane], [])
        if len(self.lanes) == self.num_slots or (self.lanes and not self._store.affordable(need)):
            self._sent_back.append(lane.job)
            return
        self._fit(need)
        lane.prefix, _ = self._prefixes.take(lane.prefix.ids)
        restore(parked, self._store, len(self.lanes))
        self.lanes.append(lane)

    def room(self, num_waiting: int) -> int:
        """How many of `num_waiting` jobs to admit now.

        A forward over a few short prompts costs little less than one over many, so a sixteenth of the slots is let run
        free before it is worth one.
        """
        num_free = min(self.num_slots - len(self.lanes), num_waiting)
        now = self._need(self.lanes, [])
        while self.lanes and num_free and not self._store.affordable(self._with_more(now, num_free)):
            num_free -= 1
        worth_it = not self.lanes or num_free >= min(num_waiting, max(1, self.num_slots // 16))
        return num_free if worth_it else 0

    @torch.inference_mode()
    def admit(self, jobs: Sequence[Job]) -> None:
        """Put jobs, no more than `room`, into free slots, their prompts but the last token into the cache; those whose
        length leaves no room for them are sent back."""
        num_new = len(jobs)
        while num_new + len(self.lanes) > 1 and not self._store.affordable(self._need(self.lanes, jobs[:num_new])):
            num_new -= 1
        self._sent_back += jobs[num_new:]
        if num_new <= 0:
            return
        self._fit(self._need(self.lanes, jobs[:num_new]))
        there, arrivals, short = self._prefixes.prompts(), list[Prompt](), dict[int, Prefix]()
        for job in jobs[:num_new]:
            prefix, is_new = self._prefixes.take(job.prompt_ids[:-1])
            if is_new:
                arrivals.append(Prompt(prefix.ids, prefix.slot))
            if 0 < len(prefix.ids) <= SHORT:
                short[len(self.lanes)] = prefix
                prefix = Prefix((), 0)
            self.lanes.append(Lane(job, self._tokenizer, prefix))
        taken = {prompt.slot for prompt in arrivals}
        self._prefill.run(arrivals, [prompt for prompt in there if prompt.slot not in taken])
        if short:
            slots = {slot: prefix.slot for slot, prefix in short.items()}
            self._store.own.take(self._store.prefixes, slots, max(len(prefix.ids) for prefix in short.values()))
        for prefix in short.values():
            self._prefixes.release(prefix)

    @torch.inference_mode()
    def step(self) -> list[Lane]:
        """One new token for every lane that is not sent back; those that it ended leave and are returned, those that
        it paused leave too."""
        while len(self.lanes) > 1 and not self._store.affordable(self._need(self.lanes, [])):
            least = min(reversed(range(len(self.lanes))), key=lambda slot: len(self.lanes[slot].token_ids))
            self._sent_back.append(self.lanes[least].job)
            self._free(least)
        self._decode()
        finished = [lane for lane in self.lanes if lane.finish_reason is not None]
        for slot in reversed(range(len(self.lanes))):
            if self.lanes[slot].paused:
                self._parked.append(park(self.lanes[slot], self._store, slot, self._forward.network))
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
        gone = self.lanes[slot] if slot < len(self.lanes) else last
        self._prefixes.release(gone.prefix)
        if gone is not last:
            self._store.own.copy(len(self.lanes), slot, last.num_own)
            self.lanes[slot] = last

    def _need(self, lanes: Sequence[Lane], jobs: Sequence[Job]) -> Need:
        """Room for the next token of lanes and of jobs to come."""
        prompts = {lane.prefix.ids for lane in lanes} | {job.prompt_ids[:-1] for job in jobs}
        copied = (len(job.prompt_ids) - 1 for job in jobs if len(job.prompt_ids) <= SHORT + 1)
        return Need(
            self._rows(len(lanes) + len(jobs)),
            max((*(lane.num_own for lane in lanes), *copied), default=0) + 1,
            len(prompts - {()}),
            max((len(ids) for ids in prompts), default=0),
        )

    def _with_more(self, need: Need, num_more: int) -> Need:
        """Room for so many more sequences with prompts of their own, as long as the longest so far."""
        rows = self._rows(len(self.lanes) + num_more)
        return Need(rows, need.own, need.num_prefixes + num_more, need.prefix)

    def _fit(self, need: Need) -> None:
        """Give the caches this room; within their limit, if they have one."""
        store = self._store
        if store.holds(need) and store.num_bytes <= (store.limit or store.num_bytes):
            return
        grown = store.grown(need)
        if not store.affordable(grown):
            self._prefixes.pack()
            grown = need
        store.resize(grown)

    def _rows(self, num_lanes: int) -> int:
        return next(count for count in self._options.counts if count >= num_lanes)

    def _decode(self) -> None:
        lanes = self.lanes
        pending = sum(len(lane.pending) for lane in lanes)
        # few rows cost little less than `COMMON`: forced text takes them
        num_rows = self._rows(min(pending, self._options.counts[-1], max(self._rows(len(lanes)), COMMON)))
        counts = _shared_out(lanes, num_rows)
        own = max(lane.num_own + count for lane, count in zip(lanes, counts, strict=True))
        self._fit(replace(self._need(lanes, []), num_rows=num_rows, own=own))
        rows, places = list[Row](), list[Place]()
        for slot, (lane, count) in enumerate(zip(lanes, counts, strict=True)):
            before = lane.prefix
            rows += lane.rows(count)
            places += [Place(slot, lane.num_own + i, before.slot, len(before.ids)) for i in range(count)]
        unused = [Place(slot, 0) for slot in range(len(lanes), len(lanes) + num_rows - len(rows))]
        hidden_R1D = self._forward.hidden(
            [[row.token] for row in rows] + [[0] for _ in unused],
            [[row.position] for row in rows] + [[0] for _ in unused],
            DecodeAttend(self._store.own, self._store.prefixes, places + unused),
        )
        self._sampler.step(rows, hidden_R1D[:, 0])


def _shared_out(lanes: Sequence[Lane], num_rows: int) -> list[int]:
    """How many of its pending tokens each lane puts into a step: one, and more where rows are left."""
    spare, counts = num_rows - len(lanes), list[int]()
    for lane in lanes:
        more = min(len(lane.pending) - 1, spare)
        spare -= more
        counts.append(1 + more)
    return counts
