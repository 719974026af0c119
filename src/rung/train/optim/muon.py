"""Muon (Jordan et al. 2024) for the matrices inside the network, torch's own; AdamW for everything else.

A matrix's momentum is made orthogonal before it is applied, so all its directions are learnt at one rate. The update is
scaled as in "Muon is Scalable for LLM Training" (arXiv 2502.16982), so AdamW's learning rate and decay suit it. What it
is not for goes to AdamW: vectors, embeddings, the output projection, and experts, whose matrices are stacked.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import nn
from torch.distributed.tensor import DTensor

from rung.base.errors import SettingsError
from rung.base.settings import Field
from rung.train.optim.adamw import AdamW, AdamWSettings

__all__ = ["Muon"]

_OUTSIDE = ("embed", "lm_head", "position")


class MuonSettings(AdamWSettings):
    """Of Muon, and of the AdamW beside it."""

    momentum: float = Field(0.95, ge=0, lt=1, description="decay of a matrix's momentum")
    num_iterations: int = Field(5, ge=1, le=20, description="Newton-Schulz iterations that make it orthogonal")
    weight_decay: float = Field(0.1, ge=0, le=1, description="decoupled weight decay of matrices, of both kinds")


class Muon:
    """Builds both as one optimizer."""

    Settings = MuonSettings

    def __init__(self, settings: MuonSettings) -> None:
        self.settings = settings

    def build(self, named: Mapping[str, nn.Parameter]) -> torch.optim.Optimizer:
        """An optimizer whose learning rate the step sets before each update.

        Raises:
            SettingsError: weights are split over ranks: an orthogonal matrix is made of a whole one.
        """
        if any(isinstance(parameter, DTensor) for parameter in named.values()):
            raise SettingsError(
                "muon needs whole matrices, and training.devices.shard splits them",
                place="optimizer",
                hint="use devices.data, or optimizer: adamw",
            )
        own = self.settings
        inside = {name: p for name, p in named.items() if p.ndim == 2 and not any(part in name for part in _OUTSIDE)}
        rest = {name: p for name, p in named.items() if name not in inside}
        if not inside:
            return AdamW(own).build(rest)
        muon = torch.optim.Muon(
            list(inside.values()),
            lr=0.0,
            weight_decay=own.weight_decay,
            momentum=own.momentum,
            ns_steps=own.num_iterations,
            adjust_lr_fn="match_rms_adamw",
        )
        return _Both(muon, AdamW(own).build(rest)) if rest else muon


class _Both(torch.optim.Optimizer):
    """Two optimizers over different parameters as one: their groups one after another, and one state."""

    def __init__(self, first: torch.optim.Optimizer, second: torch.optim.Optimizer) -> None:
        super().__init__([p for one in (first, second) for g in one.param_groups for p in g["params"]], second.defaults)
        self._parts = (first, second)
        self.param_groups = [*first.param_groups, *second.param_groups]
        self.state = first.state = second.state = defaultdict(dict)

    def step(self, closure: Callable[[], Any] | None = None) -> None:  # type: ignore[override]
        """Both."""
        for part in self._parts:
            part.step()
