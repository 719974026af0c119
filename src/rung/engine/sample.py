"""One sampling step for a batch of lanes: head, penalties, draw, and the figures that are kept.

Legend: N rows, D width.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rung.engine.head import Head, Needs, Outcome
from rung.engine.lane import Lane
from rung.engine.sampling.draw import Drawn, DrawSettings, draw
from rung.engine.sampling.penalty import Penalties

__all__ = ["Sampler"]


class Sampler:
    """From hidden states to the lanes' next tokens. `keep_logprobs` and `keep_entropies` say what is recorded."""

    def __init__(self, head: Head, keep_logprobs: bool, keep_entropies: bool) -> None:
        self._head, self._keep_logprobs, self._keep_entropies = head, keep_logprobs, keep_entropies

    def step(self, lanes: list[Lane], hidden_ND: Tensor) -> None:
        """Give every lane its next token; rows beyond the lanes are computed and ignored."""
        device = hidden_ND.device
        spare = hidden_ND.shape[0] - len(lanes)
        settings = _draw_settings(lanes, spare, device)
        penalties = _penalties(lanes, spare, device)
        sampled = [lane for lane in lanes if lane.sampling.temperature > 0]
        # at temperature 1 without penalties the raw total, when it is made anyway, is the sampling total bit for bit
        plain = penalties is None and all(lane.sampling.temperature == 1 for lane in sampled)
        shared = plain and (self._keep_logprobs or self._keep_entropies)
        outcome = self._head.run(
            hidden_ND,
            Needs(
                best=len(sampled) < len(lanes),
                totals=self._keep_logprobs,
                entropies=self._keep_entropies,
                inverse_temperature=settings.inverse_temperature[:, None] if sampled and not shared else None,
                penalties=penalties,
            ),
        )
        drawn = Drawn(outcome.best, torch.zeros(hidden_ND.shape[0], device=device))
        if sampled:
            drawn = _draw(lanes, outcome, settings, spare)
        self._record(lanes, drawn, outcome, penalties)

    def _record(self, lanes: list[Lane], drawn: Drawn, outcome: Outcome, penalties: Penalties | None) -> None:
        """Give every lane its token and the figures that are kept."""
        if self._keep_logprobs:
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
