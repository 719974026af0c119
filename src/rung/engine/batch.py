"""Continuous batching: a fixed number of slots, and a finished sequence's place goes to the next request at once.

Legend: N slots in the step, D width.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from rung.engine.attend import Cache, DecodeAttend, PrefillAttend
from rung.engine.forward import Forward
from rung.engine.head import Head, Needs, Outcome
from rung.engine.jobs import Job
from rung.engine.lane import Lane
from rung.engine.sampling.draw import Drawn, DrawSettings, draw
from rung.engine.sampling.penalty import Penalties
from rung.records.contracts import Completion
from rung.records.tokenizer import Tokenizer

__all__ = ["Batch", "BatchOptions"]


@dataclass(frozen=True, slots=True)
class BatchOptions:
    """`counts`: the batch sizes that give the same bits, ascending; the last is the number of slots."""

    counts: tuple[int, ...]
    prefill_chunk: int
    keep_logprobs: bool
    keep_entropies: bool


class Batch:
    """Runs jobs to their ends. Running sequences occupy slots 0..n-1 of the cache; a step computes the smallest allowed
    count of rows that holds them, the rows above n filled with a dummy token.

    A prompt that a slot already holds is copied from there instead of computed again: same bits, less work.
    """

    def __init__(self, forward: Forward, head: Head, cache: Cache, tokenizer: Tokenizer, options: BatchOptions) -> None:
        self._forward, self._head, self._cache = forward, head, cache
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
        self._sample(hidden_N1D[:, 0])

    def _sample(self, hidden_ND: Tensor) -> None:
        lanes, device = self._lanes, hidden_ND.device
        spare = hidden_ND.shape[0] - len(lanes)
        settings = _draw_settings(lanes, spare, device)
        penalties = _penalties(lanes, spare, device)
        sampled = [lane for lane in lanes if lane.sampling.temperature > 0]
        # at temperature 1 without penalties the raw total, when it is made anyway, is the sampling total bit for bit
        plain = penalties is None and all(lane.sampling.temperature == 1 for lane in sampled)
        shared = plain and (self._options.keep_logprobs or self._options.keep_entropies)
        outcome = self._head.run(
            hidden_ND,
            Needs(
                totals=self._options.keep_logprobs,
                entropies=self._options.keep_entropies,
                inverse_temperature=settings.inverse_temperature[:, None] if sampled and not shared else None,
                penalties=penalties,
            ),
        )
        drawn = Drawn(outcome.best, torch.zeros(hidden_ND.shape[0], device=device))
        if sampled:
            drawn = _draw(lanes, outcome, settings, spare)
        self._record(drawn, outcome, penalties)

    def _record(self, drawn: Drawn, outcome: Outcome, penalties: Penalties | None) -> None:
        """Give every lane its token and the figures that are kept."""
        lanes = self._lanes
        if self._options.keep_logprobs:
            assert outcome.total is not None
            logits_N = outcome.logits.gather(1, drawn.token[:, None])[:, 0]
            if penalties is not None:
                logits_N = penalties.raw(drawn.token, logits_N)
            raw = (logits_N - outcome.total).tolist()
            for lane, own, unmodified in zip(lanes, drawn.logprob.tolist(), raw, strict=False):
                lane.logprobs.append(own)
                lane.raw_logprobs.append(unmodified)
        if outcome.entropy is not None:
            for lane, entropy in zip(lanes, outcome.entropy.tolist(), strict=False):
                lane.entropies.append(entropy)
        for lane, token in zip(lanes, drawn.token.tolist(), strict=False):
            lane.take(token)


def _draw_settings(lanes: list[Lane], spare: int, device: torch.device) -> DrawSettings:
    """Greedy and spare rows take part as top-1, which costs nothing and never needs more candidates."""
    greedy = [lane.sampling.temperature == 0 for lane in lanes] + [True] * spare
    ones = [1.0] * spare
    temperature = [lane.sampling.temperature or 1.0 for lane in lanes] + ones
    top_p = [lane.sampling.top_p for lane in lanes] + ones
    top_k = [lane.sampling.top_k for lane in lanes] + [1] * spare
    return DrawSettings(
        torch.tensor([1.0 / t for t in temperature], device=device),
        torch.tensor([1.0 if g else p for g, p in zip(greedy, top_p, strict=True)], device=device),
        torch.tensor([1 if g else k for g, k in zip(greedy, top_k, strict=True)], device=device),
    )


def _penalties(lanes: list[Lane], spare: int, device: torch.device) -> Penalties | None:
    if all(lane.sampling.repetition_penalty == 1.0 for lane in lanes):
        return None
    penalty = [lane.sampling.repetition_penalty for lane in lanes] + [1.0] * spare
    return Penalties(
        [*(lane.seen() for lane in lanes), *([] for _ in range(spare))], torch.tensor(penalty, device=device)
    )


def _draw(lanes: list[Lane], outcome: Outcome, settings: DrawSettings, spare: int) -> Drawn:
    total_N = outcome.sampling_total if outcome.sampling_total is not None else outcome.total
    assert total_N is not None
    greedy = [lane.sampling.temperature == 0 for lane in lanes] + [True] * spare
    numbers = [0.0 if g else lane.uniform() for g, lane in zip(greedy, lanes, strict=False)] + [0.0] * spare
    device = total_N.device
    uniform_N = torch.tensor(numbers, dtype=torch.float64, device=device)
    drawn = draw(outcome.logits, total_N, settings, uniform_N)
    greedy_N = torch.tensor(greedy, device=device)
    return Drawn(
        torch.where(greedy_N, outcome.best, drawn.token),
        torch.where(greedy_N, torch.zeros_like(drawn.logprob), drawn.logprob),
    )
