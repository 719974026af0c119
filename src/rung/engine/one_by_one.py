"""Generation for networks that keep their own cache (the fallback family): one sequence after another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from rung.engine.forward import Forward
from rung.engine.jobs import Job
from rung.engine.lane import Lane
from rung.engine.sample import Sampler
from rung.models.families.fallback import Fallback
from rung.records.contracts import Completion
from rung.records.tokenizer import Tokenizer

__all__ = ["OneByOne"]


class OneByOne:
    """Correct for any wrapped model, and slower: nothing is batched, so no result can depend on a neighbour."""

    def __init__(self, forward: Forward, network: Fallback, sampler: Sampler, tokenizer: Tokenizer) -> None:
        self._forward, self._network, self._sampler, self._tokenizer = forward, network, sampler, tokenizer

    @torch.inference_mode()
    def run(self, jobs: Sequence[Job], on_step: Callable[[int, int], None]) -> list[Completion]:
        """All completions in order; `on_step(num_new_tokens, num_finished)` follows every token."""
        done: list[Completion] = []
        for job in jobs:
            lane, cache = Lane(job, self._tokenizer), None
            if len(job.prompt_ids) > 1:
                _, cache = self._step(job.prompt_ids[:-1], None)
            while lane.finish_reason is None:
                rows = lane.rows(len(lane.pending))
                hidden_1TD, cache = self._step([row.token for row in rows], cache)
                self._sampler.step(rows, hidden_1TD[0])
                if lane.finish_reason is not None:
                    done.append(lane.completion())
                on_step(1, len(done))
        return done

    def _step(self, token_ids: Sequence[int], cache: Any) -> tuple[torch.Tensor, Any]:
        self._forward.num_forwards += 1
        hidden_1TD, cache = self._network.step(torch.tensor([list(token_ids)], device=self._forward.device), cache)
        return self._forward.checked(hidden_1TD), cache
