"""Temperature, top-k and top-p draws (Holtzman et al. 2020) without sorting the vocabulary.

Legend: N rows, V vocabulary, S candidates of a row, best first.

The candidates are a row's largest logits. Their probabilities are exact because the total mass of the row is known
(log-sum-exp over the whole vocabulary); when the kept tokens reach beyond the candidates, that row alone gets more of
them. The draw inverts the cumulative distribution in descending order of probability, equal logits in ascending order
of id, so it depends on the row and its uniform number alone. Logits of minus infinity are never drawn.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rung.models.native.kernels import Kernels, Rules, kernels

__all__ = ["DrawSettings", "Drawn", "draw"]

NUM_CANDIDATES = 256
_GROWTH = 4


@dataclass(frozen=True, slots=True)
class DrawSettings:
    """Per row: `inverse_temperature` (1 / temperature), `top_p` (1 is off), `top_k` (0 is off). `keep` asks which
    tokens could be drawn."""

    inverse_temperature: Tensor
    top_p: Tensor
    top_k: Tensor
    keep: bool = False

    def rows(self, index: Tensor) -> DrawSettings:
        """The settings of some rows."""
        return DrawSettings(self.inverse_temperature[index], self.top_p[index], self.top_k[index], self.keep)


@dataclass(frozen=True, slots=True)
class Drawn:
    """Token ids and their log-probabilities (nats) in the distribution that was really sampled from.

    `kept` are, where they were asked for, the ids that top-k and top-p left to each row (None: both are off for it).
    """

    token: Tensor
    logprob: Tensor
    kept: list[Tensor | None] | None = None


def draw(
    logits_NV: Tensor, total_N: Tensor, settings: DrawSettings, uniform_N: Tensor, num_candidates: int = NUM_CANDIDATES
) -> Drawn:
    """Draw one token per row.

    Args:
        logits_NV: penalised, not yet divided by the temperature.
        total_N: log-sum-exp of logits_NV times inverse temperature, over the whole vocabulary.
        settings: how to draw.
        uniform_N: numbers in [0, 1), float64.
        num_candidates: how many of the largest logits to look at first.
    """
    ours = kernels() if logits_NV.device.type == "cpu" else None
    if ours is None:
        return _by_candidates(logits_NV, total_N, settings, uniform_N, num_candidates)
    # each row by the kernel that its own settings choose
    limited_N = settings.top_k > 0
    if bool(limited_N.all()):
        return _by_candidates(logits_NV, total_N, settings, uniform_N, num_candidates)
    drawn = _compiled(ours, logits_NV, total_N, settings, uniform_N)
    if bool(limited_N.any()):
        index = limited_N.nonzero()[:, 0]
        _put(
            drawn,
            index,
            _by_candidates(logits_NV[index], total_N[index], settings.rows(index), uniform_N[index], num_candidates),
        )
    return drawn


def _compiled(ours: Kernels, logits_NV: Tensor, total_N: Tensor, settings: DrawSettings, uniform_N: Tensor) -> Drawn:
    """The rows without top-k by the compiled kernel; zeros in the others."""
    rows = (settings.top_k == 0).nonzero()[:, 0]
    rules = Rules(settings.inverse_temperature[rows], settings.top_p[rows], total_N[rows].float(), uniform_N[rows])
    found = ours.draw_rows(logits_NV, rows, rules, settings.keep)
    num = len(logits_NV)
    kept = list[Tensor | None]([None] * num) if settings.keep else None
    drawn = Drawn(torch.zeros(num, dtype=torch.long), torch.zeros(num), kept)
    held = None
    if found.kept is not None:
        pairs = zip(found.kept, found.num_kept.tolist(), strict=True)
        held = [ids[:count].long() if count >= 0 else None for ids, count in pairs]
    _put(drawn, rows, Drawn(found.token, found.logprob, held))
    return drawn


def _put(drawn: Drawn, index: Tensor, more: Drawn) -> None:
    """Give the rows `index` what was drawn for them."""
    drawn.token[index] = more.token
    drawn.logprob[index] = more.logprob
    if drawn.kept is not None and more.kept is not None:
        for row, kept in zip(index.tolist(), more.kept, strict=True):
            drawn.kept[row] = kept


def _by_candidates(
    logits_NV: Tensor, total_N: Tensor, settings: DrawSettings, uniform_N: Tensor, num_candidates: int
) -> Drawn:
    """Every row by torch's kernels: the largest logits first, and more of them where those do not decide."""
    size = logits_NV.shape[1]
    count = min(size, max(num_candidates, int(settings.top_k.max()) + 1))
    value_NS, token_NS = _candidates(logits_NV, count)
    drawn, undecided_N = _pick(value_NS, token_NS, total_N, settings, uniform_N)
    if count < size and bool(undecided_N.any()):
        index = undecided_N.nonzero()[:, 0]
        wider = count * _GROWTH
        _put(
            drawn,
            index,
            _by_candidates(logits_NV[index], total_N[index], settings.rows(index), uniform_N[index], wider),
        )
    return drawn


def _candidates(logits_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The largest logits in descending order with their ids; equal ones in ascending order of id."""
    value_NS, token_NS = _held(logits_NV, count)
    # one number per candidate that orders by logit, then by id: the order in which topk leaves equals is its own
    key_NS = (_ordered(value_NS) << 32) - token_NS
    place_NS = key_NS.topk(count, dim=1).indices
    return value_NS.gather(1, place_NS), token_NS.gather(1, place_NS)


def _ordered(value: Tensor) -> Tensor:
    """Whole numbers (int64) in the order of float32 numbers; both zeros are one."""
    bits = (value + 0.0).view(torch.int32)
    return torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits).long()


def _held(logits_NV: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """Logits among which are the `count` largest, and their ids: of groups of columns, those with the `count` largest
    maxima hold them all."""
    num_rows, size = logits_NV.shape
    num_each = next((n for n in (8, 4, 2) if size % n == 0 and size // n >= 2 * count), 1)
    groups_NgG = logits_NV.view(num_rows, num_each, -1)
    group_NS = groups_NgG.amax(1).topk(count, dim=1, sorted=False).indices
    value_NgS = groups_NgG.gather(2, group_NS[:, None].expand(-1, num_each, -1))
    first_g1 = torch.arange(0, size, size // num_each, device=logits_NV.device)[:, None]
    return value_NgS.flatten(1), (group_NS[:, None] + first_g1).flatten(1)


def _pick(
    value_NS: Tensor, token_NS: Tensor, total_N: Tensor, settings: DrawSettings, uniform_N: Tensor
) -> tuple[Drawn, Tensor]:
    """The draw among candidates, and which rows could not be decided by them."""
    tempered_NS = (value_NS * settings.inverse_temperature[:, None]).double()
    rank_S = torch.arange(value_NS.shape[1], device=value_NS.device)
    top_k_N1 = settings.top_k[:, None]
    within_NS = ((rank_S < top_k_N1) | (top_k_N1 == 0)) & (value_NS > -torch.inf)
    within_total_N = tempered_NS.masked_fill(~within_NS, -torch.inf).logsumexp(1)
    total_N1 = torch.where(settings.top_k > 0, within_total_N, total_N.double())[:, None]
    probability_NS = (tempered_NS - total_N1).exp().masked_fill_(~within_NS, 0.0)
    reached_NS = probability_NS.cumsum(1)
    top_p_N1 = settings.top_p[:, None]
    # a token is kept while the mass before it is short of top-p; the first always is
    kept_NS = within_NS & ((reached_NS - probability_NS < top_p_N1) | (top_p_N1 >= 1) | (rank_S == 0))
    num_kept_N1 = kept_NS.sum(1, keepdim=True)
    kept_mass_N1 = reached_NS.gather(1, num_kept_N1 - 1)
    whole_N1 = (top_p_N1 >= 1) & (top_k_N1 == 0)
    kept_mass_N1 = torch.where(whole_N1, torch.ones_like(kept_mass_N1), kept_mass_N1)
    target_N1 = uniform_N[:, None] * kept_mass_N1
    place_N1 = torch.minimum((reached_NS <= target_N1).sum(1, keepdim=True), num_kept_N1 - 1)
    logprob_N1 = (tempered_NS - total_N1).gather(1, place_N1) - kept_mass_N1.log()
    # Candidates decide a row when everything that matters lies strictly above the smallest of them: beyond it there
    # may be more of its equals.
    smallest_N1 = value_NS[:, -1:]
    beyond_N1 = value_NS.gather(1, num_kept_N1 - 1) <= smallest_N1
    short_N1 = (reached_NS[:, -1:] <= target_N1) | (value_NS.gather(1, place_N1) <= smallest_N1)
    # where one of them is minus infinity there is nothing beyond them at all
    undecided_N = (torch.where(whole_N1, short_N1, beyond_N1) & (smallest_N1 > -torch.inf))[:, 0]
    kept = _kept(token_NS, num_kept_N1[:, 0], whole_N1[:, 0]) if settings.keep else None
    return Drawn(token_NS.gather(1, place_N1)[:, 0], logprob_N1[:, 0].float(), kept), undecided_N


def _kept(token_NS: Tensor, num_kept_N: Tensor, whole_N: Tensor) -> list[Tensor | None]:
    """Each row's kept candidates, on the host."""
    held_NS = token_NS[:, : int(num_kept_N.max())].cpu()
    counts = zip(num_kept_N.tolist(), whole_N.tolist(), strict=True)
    return [None if whole else held_NS[row, :num] for row, (num, whole) in enumerate(counts)]
