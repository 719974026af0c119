"""The likeliest tokens of the unmodified model at one place, with their log-probabilities.

Legend: V vocabulary.

Row by row, so that a row's figures do not depend on its neighbours, and before penalties and masks: whoever calls it
undoes the first and comes before the second. The drawn token, where it is among them, has the very bits of its raw
log-probability.
"""

from __future__ import annotations

from torch import Tensor

__all__ = ["top"]


def top(logits_V: Tensor, total: Tensor, count: int) -> tuple[tuple[int, float], ...]:
    """`count` tokens (all, where there are fewer) with log-probabilities in nats, the likeliest first.

    Args:
        logits_V: of the unmodified model, finite.
        total: their log-sum-exp, as the head's pass made it.
        count: how many; of equal ones those with the smallest ids, in ascending order.
    """
    if not count:
        return ()
    count = min(count, len(logits_V))
    least = logits_V.topk(count).values[-1]
    # topk chooses among equals as it likes; all that reach its last value, by id, leave no choice
    token_S = (logits_V >= least).nonzero()[:, 0]
    place_S = logits_V[token_S].sort(descending=True, stable=True).indices[:count]
    best_S = token_S[place_S]
    return tuple(zip(best_S.tolist(), (logits_V[best_S] - total).tolist(), strict=True))
