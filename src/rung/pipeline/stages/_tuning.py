"""A model with what is trained of it, and how that is published: the same for every stage that goes on from a model.

The recipe's model is gone on from, or what an earlier stage made of it, or a network that this run made
(`_model.origin_of`). Over an adapter a fresh one is trained, and their sum is published; of a network whose base no
recipe can name, every weight is.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from rung.base.errors import SettingsError
from rung.base.fingerprint import plain
from rung.base.seeds import derive
from rung.pipeline.stage import Context, Outputs
from rung.pipeline.stages._model import Origin, origin_of, publish_network, room, save_trained
from rung.records.manifest import Opened
from rung.train.settings import AdapterSettings, StackSettings

__all__ = ["Tuning", "open_tuning"]


@dataclass(frozen=True, slots=True)
class Tuning:
    """The loaded model that is trained, what was put on it (`made`), and the hash of what is frozen under it."""

    loaded: Any
    made: Any
    origin: Origin
    adapted: bool
    base_hash: str

    def publish(self, outputs: Outputs) -> dict[str, Any]:
        """Write what was trained; figures about it. An adapter over a whole network is merged into it."""
        adapters, network = room("train.adapters"), self.loaded.network
        unchanged = not self.adapted or adapters.base_hash(network) == self.base_hash
        if self.origin.whole and self.adapted:
            adapters.merge(network)
        if self.origin.maker:
            publish_network(network, self.loaded.tokenizer, outputs)
        else:
            save_trained(network, outputs, whole=self.origin.whole or not self.adapted)
        return {"adapter": plain(self.made), "base_unchanged": unchanged}


def open_tuning(
    context: Context, outputs: Outputs, settings: AdapterSettings, trained: Opened | None, *, clean: bool = True
) -> Tuning:
    """The model of `trained` (None: the recipe's) with a fresh adapter, or with every weight to be trained.

    Raises:
        DataError: `trained` made no model.
        SettingsError: over an adapter anything else than a plain one, or 4 bits under what is published whole.
        ModelError, GuardFailed: the model cannot be loaded, or is no clean base model although `clean` asks for one.
    """
    origin, seed = origin_of(context, trained), derive(context.seed, "adapter")
    if origin.whole and settings.quantise != "no":
        raise SettingsError(
            "every weight is published, and an adapter cannot be merged into a base in 4 bits",
            place=f"{context.name}.adapter.quantise",
            hint="leave it at no",
        )
    loaded = origin.load(context, clean=clean, exact=True)
    outputs.note("model", origin.facts(loaded))
    adapters, adapted = room("train.adapters"), settings.kind != "none"
    if adapters.has_adapter(loaded.network):
        made = adapters.stack_adapter(loaded.network, _stacked(settings, trained), seed)
    else:
        made = adapters.prepare(loaded.network, settings, seed)
    if made.degraded:
        context.events.degraded("4-bit base", made.degraded)
    return Tuning(loaded, made, origin, adapted, adapters.base_hash(loaded.network) if adapted else "")


def _stacked(settings: AdapterSettings, trained: Opened | None) -> StackSettings:
    if settings.kind != "lora" or settings.quantise != "no" or settings.dropout:
        raise SettingsError(
            f"over the adapter of '{trained.manifest.name if trained else ''}' a plain LoRA is trained",
            place="adapter",
            hint="leave kind at lora, quantise at no and dropout at 0",
        )
    return StackSettings(rank=settings.rank, alpha=settings.alpha, targets=settings.targets)
