"""The frozen policy that KL is measured from, in the cheapest form that the network allows.

With an adapter it is the network itself without what is trained: no second model. Where every weight is trained a copy
is kept, in full precision when that fits into half of the free memory, in bfloat16 when only that does.
"""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Sequence
from pathlib import Path
from typing import Literal

import torch

from rung.base.errors import ModelError
from rung.models.network import Network
from rung.records.rollout import Rollout
from rung.train.adapters import as_begun, has_adapter
from rung.train.policy_step import rollout_logprobs
from rung.train.step import Precision

__all__ = ["Reference", "choose_reference"]


class Reference:
    """Gives the log-probabilities of rollouts under the policy as it was when this was made.

    Attributes:
        how: "adapter off", "frozen copy" or "frozen copy in bfloat16".
        num_bytes: memory that it takes on top of the network.
    """

    def __init__(self, network: Network, how: Literal["adapter off", "frozen copy", "frozen copy in bfloat16"]) -> None:
        self.how, self.num_bytes = how, 0
        self._network = network
        if how != "adapter off":
            self._network = copy.deepcopy(network).requires_grad_(False).eval()
            if how == "frozen copy in bfloat16":
                self._network = self._network.to(torch.bfloat16)
            self.num_bytes = _bytes_of(self._network)

    def logprobs(
        self, rollouts: Sequence[Rollout], precision: Precision, tokens_per_micro_batch: int
    ) -> list[tuple[float, ...]]:
        """One per token of each rollout, as `rung.train.policy_step.rollout_logprobs` gives them."""
        without = as_begun(self._network) if self.how == "adapter off" else contextlib.nullcontext()
        with without:
            return rollout_logprobs(
                self._network, rollouts, precision=precision, tokens_per_micro_batch=tokens_per_micro_batch
            )


def choose_reference(network: Network, free_bytes: int | None = None) -> Reference:
    """The reference of a network that is about to be trained; call it before the first update.

    Args:
        network: with its adapter on, or with every weight set to be trained.
        free_bytes: memory there is; measured when None.

    Raises:
        ModelError: every weight is trained and no copy fits into memory.
    """
    if has_adapter(network):
        return Reference(network, "adapter off")
    free = _free_bytes(network.output_weight.device) if free_bytes is None else free_bytes
    whole = _bytes_of(network)
    half = sum(2 * p.numel() for p in network.parameters())
    if free is None or whole <= free // 2:
        return Reference(network, "frozen copy")
    if half <= free // 2:
        return Reference(network, "frozen copy in bfloat16")
    raise ModelError(
        f"a frozen copy of the policy takes {half >> 20} MiB even in bfloat16, {free >> 20} MiB are free",
        place="reference",
        hint="train an adapter, whose reference takes no memory, or set kl_coefficient to 0",
    )


def _bytes_of(network: Network) -> int:
    return sum(p.nbytes for p in network.parameters())


def _free_bytes(device: torch.device) -> int | None:
    """Memory that could be taken now; None where the system does not say."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    try:
        lines = Path("/proc/meminfo").read_text(encoding="ascii").splitlines()
    except OSError:
        return None
    found = [line.split()[1] for line in lines if line.startswith("MemAvailable:")]
    return int(found[0]) << 10 if found else None
