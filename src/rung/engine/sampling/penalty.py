"""Repetition penalty (Keskar et al. 2019, "CTRL", with the sign rule of Hugging Face's generate).

Legend: N rows, C vocabulary chunk.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

__all__ = ["Penalties"]


class Penalties:
    """Lowers the logits of tokens that a row has seen (prompt and generated), each once, chunk by chunk.

    A positive logit is divided by the row's penalty, a negative one multiplied. The unpenalised values are kept, so
    that the raw log-probability of a drawn token stays exact.
    """

    def __init__(self, seen: Sequence[Sequence[int]], penalty_N: Tensor) -> None:
        """`seen[n]` are row n's token ids, repeats allowed; rows with penalty 1 may give none."""
        device = penalty_N.device
        self._num_rows = len(seen)
        pairs = [token * self._num_rows + row for row, ids in enumerate(seen) for token in set(ids)]
        self._pairs = torch.tensor(pairs, dtype=torch.long, device=device).sort().values
        self._rows, self._ids = self._pairs % self._num_rows, self._pairs // self._num_rows
        self._penalty = penalty_N[self._rows]
        self._raw = torch.zeros(len(self._pairs), device=device)
        self._sorted_ids = self._ids.tolist()
        self._next = 0

    def apply(self, chunk_NC: Tensor, start: int) -> None:
        """Penalise in place the logits of vocabulary rows `start`..; chunks come in ascending order, each once."""
        begin, stop = self._next, start + chunk_NC.shape[1]
        end = begin
        while end < len(self._sorted_ids) and self._sorted_ids[end] < stop:
            end += 1
        self._next = end
        if begin == end:
            return
        rows, columns = self._rows[begin:end], self._ids[begin:end] - start
        raw = chunk_NC[rows, columns]
        self._raw[begin:end] = raw
        penalty = self._penalty[begin:end]
        chunk_NC[rows, columns] = torch.where(raw > 0, raw / penalty, raw * penalty)

    def raw(self, picked_N: Tensor, logits_N: Tensor) -> Tensor:
        """The unpenalised logits of one picked token per row, given their penalised ones."""
        if not len(self._pairs):
            return logits_N
        wanted = picked_N * self._num_rows + torch.arange(self._num_rows, device=picked_N.device)
        place = torch.searchsorted(self._pairs, wanted).clamp_(max=len(self._pairs) - 1)
        return torch.where(self._pairs[place] == wanted, self._raw[place], logits_N)

    def undone(self, row: int, logits_V: Tensor) -> Tensor:
        """A row's logits as they were before the penalty, apart from the given ones."""
        own = self._rows == row
        logits_V = logits_V.clone()
        logits_V[self._ids[own]] = self._raw[own]
        return logits_V
