"""Pretraining: the loop of every training, on windows of a token corpus that stays on disk.

Which windows a step reads follows from (seed, step) alone, so the order is the same on any number of ranks and after
any interruption. What is held out is measured in bits per byte of text, which no choice of tokenizer flatters: nats of
all predicted tokens, end tokens included, over the bytes of the documents they spell.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from pathlib import Path

from rung.base.errors import DataError
from rung.base.events import Events
from rung.models.network import Network
from rung.records.packing import DataReport, PackedRow
from rung.records.windows import Windows
from rung.train.loop import TrainResult, objective_of, run
from rung.train.order import DataOrder
from rung.train.pretrain_settings import PretrainSettings
from rung.train.step import evaluate

__all__ = ["NAME", "WindowMaterial", "bits_per_byte", "pretrain"]

NAME = "pretrain"


def bits_per_byte(nats_per_token: float, windows: Windows) -> float:
    """What a mean loss over all targets of a part is in bits for each byte of its texts."""
    return nats_per_token * windows.num_targets / windows.num_bytes / math.log(2)


class WindowMaterial:
    """Windows as the loop's `Material`.

    Args:
        network: what is trained.
        train: the windows trained on.
        held_out: the windows measured on; no document of `train` is in them.
        settings: how.
        content: what the corpus is, for the run's identity.

    Raises:
        DataError: nothing to train on or to measure on.
    """

    name = NAME

    def __init__(
        self, network: Network, train: Windows, held_out: Windows, settings: PretrainSettings, content: object
    ) -> None:
        if not len(train) or not held_out.num_targets:
            raise DataError(f"{len(train)} windows to train on, {len(held_out)} held out", place=NAME)
        self.network, self.settings, self.content = network, settings, content
        self.objective = objective_of(settings, "targets")
        self._train, self._held_out = train, held_out
        self.num_examples = min(settings.max_windows or len(train), len(train))
        self.order = DataOrder(self.num_examples, settings)
        self.num_held_out = held_out.num_documents
        self.report = DataReport(self.num_examples, train.num_tokens, train.num_targets, (), None)

    def rows(self, indices: Sequence[int]) -> Sequence[PackedRow]:
        """See `Material`."""
        spread = [index * len(self._train) // self.num_examples for index in indices]
        return self._train.rows(spread, self.settings.tokens_per_micro_batch)

    def measure(self) -> dict[str, float]:
        """See `Material`; `bits_per_byte` too."""
        rows = self._held_out.rows(range(len(self._held_out)), self.settings.tokens_per_micro_batch)
        loss = evaluate(self.network, rows, self.objective, self.settings.precision)
        return {"loss": loss, "bits_per_byte": bits_per_byte(loss, self._held_out)}


def pretrain(material: WindowMaterial, *, events: Events, scratch: Path, on_step: Callable[[int], None]) -> TrainResult:
    """Train every weight that requires a gradient; see `rung.train.loop.train`.

    Raises:
        DataError: a damaged checkpoint.
        Drift: the checkpoint in `scratch` is of another run.
        ModelError: nothing to train, or training diverged.
    """
    return run(material.network, material, material.settings, events=events, scratch=scratch, on_step=on_step)
