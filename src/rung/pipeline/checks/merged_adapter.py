"""A merged adapter is the adapter, a saved one comes back, and both differ from the base.

Merging has given the base model back (unsloth#869), garbage (#5410) and half the accuracy (peft#1836), and adapters
were saved under names that no loader reads (Soup 0.72.0). The adapter has the recipe's rank and targets, and random
weights, since a fresh one changes nothing; only copies of the network are touched.
"""

from __future__ import annotations

import copy
import tempfile
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.models.network import Network
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._logprobs import next_logprobs
from rung.pipeline.checks._subject import Subject

__all__ = ["MergedAdapter"]

_SPREAD = 0.02  # of the random second matrix: an effect far above the tolerance, far from saturation


class MergedAdapterSettings(BaseSettings):
    """How close is the same."""

    tolerance: float = Field(1e-4, gt=0, description="largest difference of a token's log-probability, in nats")
    num_tokens: int = Field(96, ge=8, description="tokens of the text that is compared")


class MergedAdapter(Check):
    """Adapts a copy, saves, attaches, merges."""

    Settings = MergedAdapterSettings
    guards = "a merged or saved adapter that is another model"
    runs_model = True

    def run(self, subject: Subject) -> Outcome:
        """Four readings of the same text."""
        path = subject.adapters
        if path.settings.kind == "none":
            return not_applicable("the recipe trains every weight")
        settings = path.settings.model_copy(update={"quantise": "no"})
        ids = subject.few(1)[0][1].rendered.token_ids[: self.settings.num_tokens]
        base = subject.loaded.network
        plain, network = next_logprobs(base, ids), _copied(base)
        path.prepare(network, settings, 0)
        _randomise(network)
        adapted = next_logprobs(network.eval(), ids)
        with tempfile.TemporaryDirectory(prefix="rung-audit-") as folder:
            path.save(network, Path(folder))
            other = _copied(base)
            path.attach(other, Path(folder))
            attached = next_logprobs(other.eval(), ids)
        path.merge(network)
        merged = next_logprobs(network.eval(), ids)
        return self._judged(plain, adapted, attached, merged)

    def _judged(self, plain: Tensor, adapted: Tensor, attached: Tensor, merged: Tensor) -> Outcome:
        limit, problems = self.settings.tolerance, []
        effect = float((adapted - plain).abs().max())
        lost, moved = (float((other - adapted).abs().max()) for other in (attached, merged))
        if not effect > 10 * limit:
            problems.append(f"a random adapter moves no log-probability by more than {effect:.1e}")
        if not lost <= limit:
            problems.append(f"saved and attached again, it moves a log-probability by {lost:.1e}")
        if not moved <= limit:
            problems.append(f"merged, it moves a log-probability by {moved:.1e}")
        return verdict(problems, f"effect {effect:.1e} nats; merged within {moved:.1e}, attached within {lost:.1e}")


def _copied(network: Network) -> Network:
    """A copy whose projections are its own; what an adapter never touches (embeddings, norms) is shared."""
    own = {id(module.weight) for module in network.modules() if isinstance(module, nn.Linear)}
    head = network.output_weight
    shared: dict[int, Any] = {id(p): p for p in network.parameters() if id(p) not in own or p is head}
    return copy.deepcopy(network, shared)


@torch.no_grad()
def _randomise(network: nn.Module) -> None:
    """Random second matrices, the same on every machine."""
    draws = torch.Generator().manual_seed(0)
    for name, parameter in network.named_parameters():
        if ".lora_B." in name:
            parameter.copy_(torch.randn(parameter.shape, generator=draws) * _SPREAD)
