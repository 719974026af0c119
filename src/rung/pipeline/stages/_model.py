"""Where a stage's model comes from, the engine over it, and what the manifest says of it.

Rooms that bring torch are imported by name when a stage runs: a recipe is planned and checked without them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import plain
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Outputs
from rung.records.manifest import Opened

__all__ = [
    "PUBLISHED", "Origin", "model_facts", "narrow_figures", "open_engine", "origin_of", "polling", "publish_network",
    "published", "room", "save_trained",
]  # fmt: skip

PUBLISHED = "model"  # folder of a network with its tokenizer, and the role of its files


def room(name: str) -> Any:
    """The module `rung.<name>`, imported now."""
    return importlib.import_module(f"rung.{name}")


@dataclass(frozen=True, slots=True)
class Origin:
    """Where a model is: `source`, and what an earlier stage trained of it (`part`, as `Models.load` takes it).

    `maker` is the stage of this run that made the whole network; empty: the source is the recipe's. What is trained of
    a `whole` one is published whole again: no recipe could name the base that an adapter of it would fit.
    """

    source: str
    part: Path | None = None
    maker: str = ""
    whole: bool = False

    def load(self, context: Context, *, clean: bool = True, exact: bool = False) -> Any:
        """The model. One that this run made was never taught to follow instructions by others, so there is nothing to
        guard against; `exact`: it will be published again, which is no reason to round it.

        Raises:
            SettingsError: the recipe names no model.
            ModelError, GuardFailed: it cannot be loaded, or is no clean base model although `clean` asks for one.
        """
        how: dict[str, Any] = {} if clean and not self.maker else {"clean": False}
        if self.maker and exact:
            how["precision"] = "float32"
        return context.models.load(self.source, *([] if self.part is None else [self.part]), **how)

    def facts(self, loaded: Any) -> dict[str, Any]:
        """What a manifest says about it; of a network of this run where it stands from there, for any machine."""
        found = model_facts(loaded)
        if self.maker:
            found["source"] = found["report"]["model_name"] = f"run:../{self.maker}"
        return found


def origin_of(context: Context, trained: Opened | None = None) -> Origin:
    """Of the model that a stage published or trained; of the recipe's model where there is no such stage.

    Raises:
        DataError: it made none.
    """
    if trained is None:
        return Origin(context.model_source)
    roles = {info.role for info in trained.manifest.files}
    if PUBLISHED in roles:
        return Origin(published(trained), maker=trained.manifest.name, whole=True)
    if "weights" in roles:
        return Origin(context.model_source, trained.file("weights"), whole=True)
    if "adapter" not in roles:
        raise DataError(
            f"stage '{trained.manifest.name}' is a {trained.manifest.stage} and made no model",
            place=context.name,
            hint="name a stage that trains, such as sft or pretrain",
        )
    return Origin(context.model_source, trained.file("adapter").parent)


def open_engine(context: Context, outputs: Outputs, settings: EngineSettings, trained: Opened | None = None) -> Any:
    """The engine over the model that `trained` made; over the recipe's model where there is no such stage.

    Writes the loader's report to the manifest's `model` section.
    """
    origin = origin_of(context, trained)
    loaded = origin.load(context)
    outputs.note("model", origin.facts(loaded))
    return room("engine.engine").Engine(loaded, settings, events=context.events, on_step=polling(context))


def save_trained(network: Any, outputs: Outputs, *, whole: bool) -> None:
    """Publish what was trained, every weight or the adapter alone, so that `origin_of` and `run:` find it."""
    adapters = room("train.adapters")
    if whole:
        adapters.save_weights(network, outputs.file(adapters.WHOLE_WEIGHTS, "weights"))
        return
    folder = outputs.file("adapter", "adapter")
    folder.mkdir(parents=True, exist_ok=True)
    adapters.save_adapter(network, folder)


def publish_network(network: Any, tokenizer: Any, outputs: Outputs) -> None:
    """Publish a network that was made in this run, with its tokenizer; `origin_of`, `run:` and `dir:` find it."""
    folder = outputs.file(PUBLISHED, PUBLISHED)
    folder.mkdir(parents=True, exist_ok=True)
    room("models.publish").publish(network, tokenizer, folder)


def published(stage: Opened) -> str:
    """The source of the network that a stage published.

    Raises:
        DataError: it published none.
    """
    return f"dir:{stage.file(PUBLISHED).parent}"


def model_facts(loaded: Any) -> dict[str, Any]:
    """What a manifest says about a loaded model."""
    return {
        "source": loaded.source,
        "content_id": loaded.content_id,
        "family": loaded.family,
        "path": loaded.path,
        "precision": loaded.precision,
        "report": plain(loaded.report),
    }


def narrow_figures(result: Any) -> dict[str, Any]:
    """Of a training in a narrow type, what others have not: where the scale of its loss ended and the steps left out
    on the way there; what ran in FP8."""
    found = {"loss_scale": result.loss_scale, "fp8": result.fp8}
    return {name: plain(value) for name, value in found.items() if value is not None}


def polling(context: Context) -> Callable[[int], None]:
    """A callback for every step of generation: a stop request or a spent cap ends the work within a second."""
    return lambda num_tokens: context.budget.poll(tokens=num_tokens)
