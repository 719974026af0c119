"""One sampling step for a batch of lanes: head, penalties, draw, and the figures that are kept.

Legend: N rows, D width.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from rung.engine.head import Head, Needs, Outcome
from rung.engine.lane import Lane
from rung.engine.sampling.draw import Drawn, DrawSettings, draw
from rung.engine.sampling.penalty import Penalties
from rung.engine.steering.entropy import sampling_entropy

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
        total_N = outcome.sampling_total if outcome.sampling_total is not None else outcome.total
        outcome, total_N = _masked(lanes, outcome, total_N, settings)
        _watch(lanes, outcome, total_N)
        drawn = Drawn(outcome.best, torch.zeros(hidden_ND.shape[0], device=device))
        if sampled:
            assert total_N is not None
            drawn = _draw(lanes, outcome, total_N, settings)
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


def _masked(
    lanes: list[Lane], outcome: Outcome, total_N: Tensor | None, settings: DrawSettings
) -> tuple[Outcome, Tensor | None]:
    """What the constraints and watches of lanes leave: the others' logits are minus infinity, and best and total are
    found again.

    Row by row, so that no row's bits depend on its neighbours. `outcome.total` stays the unmodified model's.
    """
    masks = [lane.allowed() for lane in lanes]
    if all(mask_V is None for mask_V in masks):
        return outcome, total_N
    best_N = outcome.best.clone()
    total_N = total_N.clone() if total_N is not None else None
    for row, (lane, mask_V) in enumerate(zip(lanes, masks, strict=True)):
        if mask_V is None:
            continue
        logits_V = outcome.logits[row]
        logits_V.masked_fill_(~mask_V.to(logits_V.device), -torch.inf)
        best_N[row] = logits_V.max(0).indices
        if total_N is not None and lane.sampling.temperature > 0:
            total_N[row] = (logits_V * settings.inverse_temperature[row]).logsumexp(0)
    return replace(outcome, best=best_N), total_N


def _watch(lanes: list[Lane], outcome: Outcome, total_N: Tensor | None) -> None:
    """The entropies of what is drawn from, for the lanes that are watched and not being told something."""
    for row, lane in enumerate(lanes):
        if lane.watching is not None and not lane.watching.told:
            total = float(total_N[row]) if total_N is not None else 0.0
            entropy = sampling_entropy(outcome.logits[row], total, lane.sampling)
            lane.watching.sampling_entropies.append(entropy)


def _draw(lanes: list[Lane], outcome: Outcome, total_N: Tensor, settings: DrawSettings) -> Drawn:
    spare = len(total_N) - len(lanes)
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
