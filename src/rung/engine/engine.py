"""The engine: tokens in, tokens out, on one device. Keeps the `Completer` promise for a loaded model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch

from rung.base.errors import DataError, ModelError, SettingsError
from rung.base.events import Events
from rung.engine.batch import Batch, BatchOptions
from rung.engine.cache import BLOCK
from rung.engine.constraints.compiling import Compiler
from rung.engine.forward import Forward
from rung.engine.head import Head
from rung.engine.invariance import COMMON, SMALLEST, Invariance, candidate_counts, invariance
from rung.engine.jobs import Job, make_jobs
from rung.engine.one_by_one import OneByOne
from rung.engine.sample import Sampler
from rung.engine.score import Pair, make_pairs, score_pairs
from rung.engine.settings import EngineSettings
from rung.engine.store import Alone, Store
from rung.engine.whole import Whole
from rung.models.families.fallback import Fallback
from rung.models.native.kernels import reason
from rung.models.network import Network
from rung.models.twin import Twin
from rung.records.contracts import Capabilities, Completion, Request, Scored
from rung.records.tokenizer import Tokenizer

__all__ = ["Engine", "Intake", "Loaded", "Memory"]

_PROGRESS_SECONDS = 0.5


class Loaded(Protocol):
    """What the engine needs of a loaded model (`rung.models.load.Loaded` is one)."""

    @property
    def source(self) -> str:
        """Where it came from; the engine's name."""

    @property
    def network(self) -> Network:
        """The weights."""

    @property
    def tokenizer(self) -> Tokenizer:
        """Its tokenizer."""

    @property
    def clean(self) -> bool:
        """Whether it came through the clean loader."""


@dataclass(frozen=True, slots=True)
class Intake:
    """What it takes to check requests and turn them into jobs. It outlives the weights."""

    tokenizer: Tokenizer
    max_context: int
    vocabulary: int
    compiler: Compiler
    alone: Alone

    def jobs(self, requests: Sequence[Request]) -> list[Job]:
        """As `rung.engine.jobs.make_jobs`; and none whose cache the limit does not hold even alone.

        Raises:
            SettingsError, DataError: a request that cannot be done.
        """
        jobs = make_jobs(requests, self.tokenizer, self.max_context, self.vocabulary, self.compiler)
        for job in jobs:
            self.check_room(f"request '{job.request.id}'", len(job.prompt_ids), job.request.sampling.max_new_tokens)
        return jobs

    def check_room(self, place: str, num_prompt: int, num_own: int) -> None:
        """Whether a prompt of so many tokens and so many after it fit the cache's limit.

        Raises:
            DataError: they do not.
        """
        if self.alone.holds(num_prompt, num_own):
            return
        wanted = -(-self.alone.bytes_for(num_prompt, num_own) // 2**20)
        raise DataError(
            f"a prompt of {num_prompt} tokens and {num_own} after it take {wanted} MiB of cache: they do not fit the "
            f"limit of {self.alone.limit >> 20}",
            place=place,
            hint="shorten the prompt, lower max_new_tokens or raise the engine's cache_mebibytes",
        )


@dataclass(frozen=True, slots=True)
class Memory:
    """Bytes held on `device` for weights and for the cache of keys and values."""

    device: str
    weights: int
    cache: int


class Engine:
    """Batched generation and scoring.

    Args:
        loaded: the model. Weights are read in place at every step, so training them is enough to sync them; where
            `settings.precision` is narrower than they are, they are rounded anew at every call that finds them written.
        settings: sizes, and what is kept.
        events: receives progress and tokens per second.
        on_step: called after every step with the number of new tokens; what it raises ends `complete` cleanly.

    `invariance` says, after the first `complete`, which batch sizes were found to give the same bits here.
    """

    def __init__(
        self,
        loaded: Loaded,
        settings: EngineSettings | None = None,
        *,
        events: Events | None = None,
        on_step: Callable[[int], None] | None = None,
    ) -> None:
        self.settings = settings or EngineSettings()
        self.invariance: Invariance | None = None
        self._loaded, self._tokenizer = loaded, loaded.tokenizer
        self._twin = _twin(loaded.network, self.settings)
        self._network = loaded.network if self._twin is None else self._twin.network
        self._events, self._on_step = events or Events(), on_step
        self._forward = Forward(self._network)
        self._head = Head(self._network, self.settings.head_chunk)
        self._store: Store | None = None
        self._num_slots = 0
        self._max_context = _most_context(self._network, self.settings)
        alone = _alone(self._network, self.settings)
        self._most_slots = _in_fours(self.settings.num_slots)
        width = self._network.shape.vocabulary
        self.intake = Intake(self._tokenizer, self._max_context, width, Compiler(self._tokenizer, width), alone)

    @property
    def num_forwards(self) -> int:
        """How often the network's body ran so far."""
        return self._forward.num_forwards

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order; each depends on its own request alone.

        Raises:
            SettingsError, DataError: a request that cannot be done, before any work.
            ModelError: the network's output is not finite.
        """
        jobs, done = self.intake.jobs(requests), dict[int, Completion]()
        self._refresh()
        report = self._reporter(jobs)
        while waiting := [job for job in jobs if job.place not in done]:
            try:
                if one_by_one := self._one_by_one():
                    return one_by_one.run(waiting, report)
                self._batch(len(waiting)).run(waiting, report, done)
            except ModelError:
                self._store = None  # it may hold values that are not finite, which no mask can hide
                raise
            except torch.OutOfMemoryError:
                if not self.shrink():
                    raise
        return [done[job.place] for job in jobs]

    def open(self, gone: Callable[[int], bool]) -> Batch | Whole:
        """All slots, for a caller who admits jobs and steps by himself. `gone` is asked about the place of a job while
        a network that keeps its own cache makes a whole answer in one step: true ends it."""
        self._refresh()
        one_by_one = self._one_by_one()
        return Whole(one_by_one, self._tokenizer, gone) if one_by_one else self._batch(self._most_slots)

    def shrink(self) -> bool:
        """After a lack of memory: half the slots from now on, and the cache given back. False where no fewer work; then
        nothing has changed but the cache, which is gone."""
        had = self._num_slots if self._store is not None else 0
        self._store = None
        if had <= SMALLEST:
            return False
        self._most_slots = _in_fours(had // 2)
        self._events.degraded(
            "memory", f"not enough for {had} sequences at once; from now on {self._most_slots} run at once"
        )
        return True

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        """Log-probabilities of each continuation after its prompt, under the unmodified model.

        Raises:
            DataError: unequal numbers, no context, or too long; before any work.
        """
        return self.score_pairs(make_pairs(prompts, continuations, self._tokenizer, self._max_context))

    def score_pairs(self, pairs: Sequence[Pair]) -> list[Scored]:
        """`score` for what is tokenised and checked already."""
        self._refresh()
        return score_pairs(self._forward, self._head, pairs, self.settings.score_tokens)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in tokens, start token not counted."""
        return [len(ids) for ids in self._tokenizer.encode_batch(texts)]

    def capabilities(self) -> Capabilities:
        """What this engine can do."""
        return Capabilities(
            name=self._loaded.source,
            logprobs=self.settings.keep_logprobs,
            score=True,
            constraints=True,
            messages=False,
            clean=self._loaded.clean,
            max_context=self._max_context,
            start_ids=self._tokenizer.start_ids,
        )

    def memory(self) -> Memory:
        """What weights and cache take now."""
        store = self._store
        return Memory(
            str(self._forward.device),
            _num_bytes(self._loaded.network) + (0 if self._twin is None else _num_bytes(self._network)),
            store.num_bytes if store is not None else 0,
        )

    def release(self) -> None:
        """Give the cache's memory back; the next `complete` takes it again."""
        self._store = None

    def _refresh(self) -> None:
        if self._twin is not None:
            self._twin.refresh()

    def _sampler(self) -> Sampler:
        return Sampler(self._head, self.settings.keep_logprobs, self.settings.keep_entropies)

    def _one_by_one(self) -> OneByOne | None:
        if not isinstance(self._network, Fallback):
            return None
        return OneByOne(self._forward, self._network, self._sampler(), self._tokenizer)

    def _batch(self, num_jobs: int) -> Batch:
        self._num_slots = min(self._most_slots, _in_fours(num_jobs))
        options = BatchOptions(self._num_slots, self._counts(), self.settings.prefill_chunk)
        return Batch(self._forward, self._sampler(), self._room(), self._tokenizer, options)

    def _counts(self) -> tuple[int, ...]:
        """Numbers of rows that give the same bits, ascending, up to the first that holds all slots, or `COMMON`."""
        if self.invariance is None:
            if self._forward.device.type == "cpu" and reason():
                self._events.degraded("compiled kernels", f"torch's own are used, which are slower: {reason()}")
            self.invariance = invariance(self._forward, self._head, candidate_counts(self.settings.num_slots))
            if not self.invariance.exact:
                self._events.degraded(
                    "batch invariance", "kernels here change a row's bits with its place in the batch"
                )
            elif self.invariance.rejected:
                self._events.log("batch sizes with other bits are not used", rejected=self.invariance.rejected)
        # more rows than sequences only where no smaller number gives the common bits, and for forced text
        counts, most = self.invariance.counts, max(self._num_slots, min(COMMON, self._most_slots))
        first = next((c for c in counts if c >= most), counts[-1])
        return tuple(c for c in counts if c <= first)

    def _room(self) -> Store:
        if self._store is None:
            limit = self.settings.cache_mebibytes << 20
            self._store = Store(self._network.shape, self._forward.dtype, self._forward.device, limit)
        if self.invariance is not None:
            self._store.set_step(self.invariance.step)
        return self._store

    def _reporter(self, jobs: Sequence[Job]) -> Callable[[int, int], None]:
        """Counts tokens, reports twice a second, and once more at the end."""
        start = last = time.monotonic()
        num_tokens = num_steps = 0

        def report(num_new: int, num_done: int) -> None:
            """Count one step's new tokens; say how far it is when it is time to."""
            nonlocal last, num_tokens, num_steps
            num_tokens, num_steps, now = num_tokens + num_new, num_steps + 1, time.monotonic()
            if now - last >= _PROGRESS_SECONDS or num_done == len(jobs):
                last = now
                self._events.progress("generate", num_done, len(jobs), "sequences")
                self._events.metric("engine/tokens_per_second", num_tokens / max(now - start, 1e-9), num_steps)
            if self._on_step is not None:
                self._on_step(num_new)

        return report


def _in_fours(count: int) -> int:
    return -(-count // SMALLEST) * SMALLEST


def _twin(network: Network, settings: EngineSettings) -> Twin | None:
    """A copy to sample from, where the weights are wider than what is asked for."""
    if settings.precision == "weights" or network.output_weight.dtype != torch.float32:
        return None
    return Twin(network, torch.bfloat16)


def _num_bytes(network: Network) -> int:
    return sum(p.nbytes for p in network.parameters())


def _most_context(network: Network, settings: EngineSettings) -> int:
    """The longest sequence that network and settings allow; 0: any."""
    return min((n for n in (settings.max_context, network.shape.max_context) if n), default=0)


def _alone(network: Network, settings: EngineSettings) -> Alone:
    """What the cache's limit leaves to one sequence.

    Raises:
        SettingsError: it does not even hold short ones.
    """
    fewest, dtype = candidate_counts(settings.num_slots)[0], network.output_weight.dtype
    alone = Alone.of(network.shape, fewest, dtype, settings.cache_mebibytes << 20)
    if not alone.holds(BLOCK + 1, BLOCK):
        raise SettingsError(
            f"{settings.cache_mebibytes} MiB do not hold {fewest} sequences of {BLOCK} positions",
            place="engine.cache_mebibytes",
            hint=f"at least {-(-alone.bytes_for(BLOCK + 1, BLOCK) // 2**20)}; 0 is no limit",
        )
    return alone
