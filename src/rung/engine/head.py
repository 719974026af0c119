"""The output projection in vocabulary chunks: logits, their log-sum-exp, entropy and arg-max in one pass.

Legend: N rows, D width, V vocabulary, C chunk.

A chunk of logits is used while it is still in the processor's cache; the vocabulary-wide passes that a softmax, an
entropy and a temperature would each need over main memory disappear.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from rung.engine.sampling.penalty import Penalties
from rung.engine.totals import totals
from rung.models.layers.projection import product_into
from rung.models.network import Network

__all__ = ["Head", "Needs", "Outcome"]


@dataclass(frozen=True, slots=True)
class Needs:
    """What a pass must find out besides the logits.

    `best` for the arg-max; `totals` and `entropies` of the unmodified model; `times` [N], the inverse temperatures
    (None: not needed), for the total of the tempered and penalised distribution.
    """

    best: bool = True
    totals: bool = False
    entropies: bool = False
    times: Tensor | None = None
    penalties: Penalties | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """`logits` [N, V] are penalised where `penalties` were given, and belong to the head until its next pass.

    Per row: `best` is the first arg-max of `logits` (zeros when not asked for); `total` and `entropy` are of the
    unmodified model, `sampling_total` of the tempered and penalised one; the others are None when not asked for.
    """

    logits: Tensor
    best: Tensor
    total: Tensor | None
    entropy: Tensor | None
    sampling_total: Tensor | None


class Head:
    """Makes logits in float32 from hidden states.

    Args:
        network: its `output_weight` and `softcap` are read at every pass, so trained weights are always the current.
        chunk: vocabulary rows at a time. The same for every batch size, for it decides the bits.
    """

    def __init__(self, network: Network, chunk: int) -> None:
        self._network, self.chunk = network, chunk
        self._logits = torch.empty(0)
        self._scratch = torch.empty(0)

    def run(self, hidden_ND: Tensor, needs: Needs) -> Outcome:
        """Logits of every row over the whole vocabulary, with what `needs` asks for."""
        weight_VD = self._network.output_weight
        num_rows, size = hidden_ND.shape[0], weight_VD.shape[0]
        device = hidden_ND.device
        self._prepare(num_rows, size, device)
        logits_NV = self._logits[:num_rows]
        wants_raw = needs.totals or needs.entropies
        raw = totals(num_rows, device, entropy=needs.entropies) if wants_raw else None
        # the largest is that of penalised logits
        last = (
            totals(num_rows, device, times=needs.times, best=needs.best)
            if needs.best or needs.times is not None
            else None
        )
        for start in range(0, size, self.chunk):
            chunk = logits_NV[:, start : start + self.chunk]
            scratch = self._scratch[:num_rows, : chunk.shape[1]]
            self._project(hidden_ND, weight_VD[start : start + self.chunk], chunk)
            if raw is not None:
                raw.add(chunk, scratch, start)
            if needs.penalties is not None:
                needs.penalties.apply(chunk, start)
            if last is not None:
                last.add(chunk, scratch, start)
        return Outcome(
            logits_NV,
            last.best() if last is not None else torch.zeros((num_rows,), dtype=torch.long, device=device),
            raw.total() if raw is not None else None,
            raw.entropy() if raw is not None and needs.entropies else None,
            last.total() if last is not None and needs.times is not None else None,
        )

    def logprobs(self, hidden_ND: Tensor, rows: Tensor, token_ids: Tensor) -> Tensor:
        """Log-probabilities of `token_ids[i]` under row `rows[i]` of `hidden_ND`; no logits are kept."""
        weight_VD = self._network.output_weight
        num_rows, size = hidden_ND.shape[0], weight_VD.shape[0]
        running = totals(num_rows, hidden_ND.device)
        chunk_logits = torch.empty((num_rows, self.chunk), device=hidden_ND.device)
        scratch = torch.empty_like(chunk_logits)
        picked = torch.zeros(len(rows), device=hidden_ND.device)
        for start in range(0, size, self.chunk):
            width = min(self.chunk, size - start)
            chunk = chunk_logits[:, :width]
            self._project(hidden_ND, weight_VD[start : start + width], chunk)
            running.add(chunk, scratch[:, :width], start)
            here = ((token_ids >= start) & (token_ids < start + width)).nonzero()[:, 0]
            if len(here):
                picked[here] = chunk[rows[here], token_ids[here] - start]
        return picked - running.total()[rows]

    def _project(self, hidden_ND: Tensor, weight_CD: Tensor, out_NC: Tensor) -> None:
        if hidden_ND.dtype == torch.float32:
            torch.mm(hidden_ND, weight_CD.t(), out=out_NC)
        else:
            product_into(hidden_ND, weight_CD, out_NC)
        if self._network.softcap:
            out_NC.div_(self._network.softcap).tanh_().mul_(self._network.softcap)

    def _prepare(self, num_rows: int, size: int, device: torch.device) -> None:
        if self._logits.shape[0] < num_rows or self._logits.device != device:
            self._logits = torch.empty((num_rows, size), device=device)
            self._scratch = torch.empty((num_rows, min(self.chunk, size)), device=device)
