"""One sampling step for rows of lanes: head, penalties, draw, and the figures that are kept.

Legend: N rows, D width.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import torch
from torch import Tensor

from rung.engine.head import Head, Needs, Outcome
from rung.engine.lane import Row
from rung.engine.sampling.draw import Drawn, DrawSettings, draw
from rung.engine.sampling.penalty import Penalties
from rung.engine.sampling.top import top
from rung.engine.steering.entropy import sampling_entropy
from rung.models.native.kernels import kernels
from rung.records.rollout import Support

__all__ = ["Sampler"]


class Sampler:
    """From hidden states to the lanes' next tokens. `keep_logprobs` and `keep_entropies` say what is recorded."""

    def __init__(self, head: Head, keep_logprobs: bool, keep_entropies: bool) -> None:
        self._head, self._keep_logprobs, self._keep_entropies = head, keep_logprobs, keep_entropies

    def step(self, rows: list[Row], hidden_ND: Tensor) -> None:
        """Give every lane its next token, and the figures of those that were known already; rows of `hidden_ND` beyond
        `rows` are computed and ignored."""
        device = hidden_ND.device
        spare = hidden_ND.shape[0] - len(rows)
        settings = _draw_settings(rows, spare, device)
        penalties = _penalties(rows, spare, device)
        drawing = [row.lane for row in rows if row.known is None]
        sampled = [lane for lane in drawing if lane.sampling.temperature > 0]
        # at temperature 1 without penalties the raw total, when it is made anyway, is the sampling total bit for bit
        plain = penalties is None and all(lane.sampling.temperature == 1 for lane in sampled)
        shared = plain and (self._keep_logprobs or self._keep_entropies)
        outcome = self._head.run(
            hidden_ND,
            Needs(
                best=len(sampled) < len(drawing),
                totals=self._keep_logprobs or any(row.lane.job.request.top_logprobs for row in rows),
                entropies=self._keep_entropies,
                times=settings.inverse_temperature if sampled and not shared else None,
                penalties=penalties,
            ),
        )
        _tops(rows, outcome, penalties)
        total_N = outcome.sampling_total if outcome.sampling_total is not None else outcome.total
        outcome, total_N = _masked(rows, outcome, total_N, settings)
        _watch(rows, outcome, total_N)
        drawn = Drawn(outcome.best, torch.zeros(hidden_ND.shape[0], device=device))
        if sampled:
            assert total_N is not None
            drawn = _draw(rows, outcome, total_N, settings)
        _keep_supports(rows, drawn, outcome.logits)
        self._record(rows, drawn, outcome, penalties)

    def _record(self, rows: list[Row], drawn: Drawn, outcome: Outcome, penalties: Penalties | None) -> None:
        """Give every lane its token and the figures that are kept."""
        drawn = _with_known(rows, drawn)
        if self._keep_logprobs:
            assert outcome.total is not None
            logits_N = outcome.logits.gather(1, drawn.token[:, None])[:, 0]
            if penalties is not None:
                logits_N = penalties.raw(drawn.token, logits_N)
            raw = (logits_N - outcome.total).tolist()
            for row, own, unmodified in zip(rows, drawn.logprob.tolist(), raw, strict=False):
                row.lane.logprobs.append(own)
                row.lane.raw_logprobs.append(unmodified)
        if outcome.entropy is not None:
            for row, entropy in zip(rows, outcome.entropy.tolist(), strict=False):
                row.lane.entropies.append(entropy)
        for row, token in zip(rows, drawn.token.tolist(), strict=False):
            row.lane.fed(1)
            if row.known is None:
                row.lane.take(token)
                row.lane.run_ahead()


def _tops(rows: list[Row], outcome: Outcome, penalties: Penalties | None) -> None:
    """The likeliest tokens of the unmodified model, for the lanes that asked; masks come after it."""
    for place, row in enumerate(rows):
        count = row.lane.job.request.top_logprobs
        if count:
            assert outcome.total is not None
            logits_V = outcome.logits[place]
            if penalties is not None:
                logits_V = penalties.undone(place, logits_V)
            row.lane.top.append(top(logits_V, outcome.total[place], count))


def _with_known(rows: list[Row], drawn: Drawn) -> Drawn:
    """What is known already comes with probability one, whatever was drawn there."""
    if all(row.known is None for row in rows):
        return drawn
    token_N, logprob_N = drawn.token.clone(), drawn.logprob.clone()
    for place, row in enumerate(rows):
        if row.known is not None:
            token_N[place], logprob_N[place] = row.known, 0.0
    return Drawn(token_N, logprob_N)


def _keep_supports(rows: list[Row], drawn: Drawn, logits_NV: Tensor) -> None:
    """What could be drawn, for the lanes that asked: what masks, top-k and top-p left; one token where nothing is."""
    kept: Sequence[Tensor | None] = drawn.kept or [None] * len(rows)
    for place, row in enumerate(rows):
        if not row.lane.job.request.keep_supports:
            continue
        if _is_greedy(row):
            only = int(drawn.token[place]) if row.known is None else row.known
            support: Support | None = Support.of_ids([only], logits_NV.shape[1])
        else:
            support = _support(
                kept[place], logits_NV[place], masked=row.lane.state is not None or row.lane.watching is not None
            )
        row.lane.supports.append(support)


def _support(kept: Tensor | None, logits_V: Tensor, *, masked: bool) -> Support | None:
    """None where every token could be drawn."""
    if kept is not None:
        support = Support.of_ids(kept.numpy(), len(logits_V))
    elif masked:
        support = Support.of_mask((logits_V > -torch.inf).cpu().numpy())
    else:
        return None
    return None if len(support) == len(logits_V) else support


def _is_greedy(row: Row) -> bool:
    """Also where nothing is drawn: that takes part as top-1, which costs nothing and never needs more candidates."""
    return row.known is not None or row.lane.sampling.temperature == 0


def _draw_settings(rows: list[Row], spare: int, device: torch.device) -> DrawSettings:
    greedy = [_is_greedy(row) for row in rows] + [True] * spare
    ones = [1.0] * spare
    temperature = [1.0 if _is_greedy(row) else row.lane.sampling.temperature for row in rows] + ones
    top_p = [row.lane.sampling.top_p for row in rows] + ones
    top_k = [row.lane.sampling.top_k for row in rows] + [1] * spare
    return DrawSettings(
        torch.tensor([1.0 / t for t in temperature], device=device),
        torch.tensor([1.0 if g else p for g, p in zip(greedy, top_p, strict=True)], device=device),
        torch.tensor([1 if g else k for g, k in zip(greedy, top_k, strict=True)], device=device),
        keep=any(row.lane.job.request.keep_supports for row in rows),
    )


def _penalties(rows: list[Row], spare: int, device: torch.device) -> Penalties | None:
    """Of the rows that draw; the others keep what the unmodified model says."""
    found = [1.0 if row.known is not None else row.lane.sampling.repetition_penalty for row in rows]
    if all(penalty == 1.0 for penalty in found):
        return None
    seen = [row.lane.seen() if penalty != 1.0 else [] for row, penalty in zip(rows, found, strict=True)]
    return Penalties([*seen, *([] for _ in range(spare))], torch.tensor(found + [1.0] * spare, device=device))


def _masked(
    rows: list[Row], outcome: Outcome, total_N: Tensor | None, settings: DrawSettings
) -> tuple[Outcome, Tensor | None]:
    """What the constraints and watches of lanes leave: the others' logits are minus infinity, and best and total are
    found again.

    Row by row, so that no row's bits depend on its neighbours. `outcome.total` stays the unmodified model's.
    """
    masks = [row.lane.allowed() if row.known is None else None for row in rows]
    if all(mask_V is None for mask_V in masks):
        return outcome, total_N
    total_N = total_N.clone() if total_N is not None else None
    bound = [place for place, mask_V in enumerate(masks) if mask_V is not None]
    kept = _kept_by(outcome.logits, bound, [mask_V for mask_V in masks if mask_V is not None], settings)
    best_N = outcome.best.clone()
    best_N[bound] = kept[0]
    heated = [n for n, place in enumerate(bound) if rows[place].lane.sampling.temperature > 0]
    if total_N is not None and heated:
        total_N[[bound[n] for n in heated]] = kept[1][heated]
    return replace(outcome, best=best_N), total_N


def _kept_by(logits_NV: Tensor, bound: list[int], masks: list[Tensor], settings: DrawSettings) -> tuple[Tensor, Tensor]:
    """Best and tempered total of the rows `bound` under their masks, which are put on the logits."""
    times = settings.inverse_temperature[bound]
    ours = kernels() if logits_NV.device.type == "cpu" else None
    if ours is not None:
        return ours.mask_rows(logits_NV, bound, masks, times)
    best, total = list[Tensor](), list[Tensor]()
    for place, mask_V, inverse in zip(bound, masks, times, strict=True):
        logits_V = logits_NV[place]
        logits_V.masked_fill_(~mask_V.to(logits_V.device), -torch.inf)
        best.append(logits_V.max(0).indices)
        total.append((logits_V * inverse).logsumexp(0))
    return torch.stack(best), torch.stack(total)


def _watch(rows: list[Row], outcome: Outcome, total_N: Tensor | None) -> None:
    """The entropies of what is drawn from, for the lanes that are watched and not being told something."""
    for place, row in enumerate(rows):
        lane = row.lane
        if lane.watching is not None and not lane.watching.told:
            total = float(total_N[place]) if total_N is not None else 0.0
            entropy = sampling_entropy(outcome.logits[place], total, lane.sampling)
            lane.watching.sampling_entropies.append(entropy)


def _draw(rows: list[Row], outcome: Outcome, total_N: Tensor, settings: DrawSettings) -> Drawn:
    spare = len(total_N) - len(rows)
    greedy = [_is_greedy(row) for row in rows] + [True] * spare
    numbers = [0.0 if g else row.lane.uniform() for g, row in zip(greedy, rows, strict=False)] + [0.0] * spare
    device = total_N.device
    uniform_N = torch.tensor(numbers, dtype=torch.float64, device=device)
    drawn = draw(outcome.logits, total_N, settings, uniform_N)
    greedy_N = torch.tensor(greedy, device=device)
    return Drawn(
        torch.where(greedy_N, outcome.best, drawn.token),
        torch.where(greedy_N, torch.zeros_like(drawn.logprob), drawn.logprob),
        drawn.kept,
    )
