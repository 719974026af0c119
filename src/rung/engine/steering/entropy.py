"""Entropy of the distribution that a token was really drawn from, after temperature, penalties, masks, top-k and top-p.

Legend: V vocabulary, S candidates, best first.

The entropy of the unmodified model comes with the head's pass. This one costs a pass of its own over the vocabulary, so
only sequences that are watched have it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from rung.records.contracts import Sampling

__all__ = ["sampling_entropy"]

_NUM_CANDIDATES = 256
_GROWTH = 4


def sampling_entropy(logits_V: Tensor, total: float, sampling: Sampling) -> float:
    """Entropy in nats; 0.0 for greedy.

    Args:
        logits_V: one row, penalised and masked, not yet divided by the temperature.
        total: log-sum-exp of the row over the temperature, as the draw has it: it decides which tokens top-p keeps.
        sampling: how the row is drawn from.
    """
    if sampling.temperature == 0:
        return 0.0
    inverse = 1.0 / sampling.temperature
    if sampling.top_p >= 1 and not sampling.top_k:
        return _entropy((logits_V * inverse).double())
    count = min(len(logits_V), max(_NUM_CANDIDATES, sampling.top_k + 1))
    while True:
        tempered_S = (logits_V.topk(count).values * inverse).double()
        num_kept = _num_kept(tempered_S, total, sampling)
        if num_kept < count or count == len(logits_V):
            return _entropy(tempered_S[:num_kept])
        count = min(len(logits_V), count * _GROWTH)


def _num_kept(tempered_S: Tensor, total: float, sampling: Sampling) -> int:
    """How many of the candidates the draw chooses among; the rule of `rung.engine.sampling.draw`."""
    within_S = tempered_S[: sampling.top_k] if sampling.top_k else tempered_S
    mass = within_S.logsumexp(0) if sampling.top_k else torch.tensor(total, dtype=torch.float64)
    probability_S = (within_S - mass).exp()
    num_kept = int((probability_S > 0).sum())
    if sampling.top_p < 1:
        before_S = probability_S.cumsum(0) - probability_S
        num_kept = min(num_kept, int((before_S < sampling.top_p).sum()))
    return max(1, num_kept)


def _entropy(tempered_S: Tensor) -> float:
    probability_S = tempered_S.softmax(0)
    return float(torch.special.entr(probability_S).sum())
