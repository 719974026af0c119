"""Open the recipe's model as an engine, and say in the manifest what was loaded and how the guard judged it.

Rooms that bring torch are imported by name when a stage runs: a recipe is planned and checked without them.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rung.base.fingerprint import plain
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, Outputs
from rung.records.manifest import Opened

__all__ = [
    "PUBLISHED", "model_facts", "narrow_figures", "open_engine", "polling", "publish_network", "published", "room",
    "save_trained", "trained_part",
]  # fmt: skip

PUBLISHED = "model"  # folder of a network with its tokenizer, and the role of its files


def room(name: str) -> Any:
    """The module `rung.<name>`, imported now."""
    return importlib.import_module(f"rung.{name}")


def open_engine(
    context: Context, outputs: Outputs, settings: EngineSettings, source: str = "", adapter: Path | None = None
) -> Any:
    """The engine over `source` (the recipe's model when empty), with what was trained on it (see `trained_part`).

    Writes the loader's report to the manifest's `model` section.
    """
    loaded = context.models.load(source or context.model_source, adapter)
    outputs.note("model", model_facts(loaded))
    return room("engine.engine").Engine(loaded, settings, events=context.events, on_step=polling(context))


def save_trained(network: Any, outputs: Outputs, *, whole: bool) -> None:
    """Publish what was trained, every weight or the adapter alone, so that `trained_part` and `run:` find it."""
    adapters = room("train.adapters")
    if whole:
        adapters.save_weights(network, outputs.file(adapters.WHOLE_WEIGHTS, "weights"))
        return
    folder = outputs.file("adapter", "adapter")
    folder.mkdir(parents=True, exist_ok=True)
    adapters.save_adapter(network, folder)


def publish_network(network: Any, tokenizer: Any, outputs: Outputs) -> None:
    """Publish a network that was made in this run, with its tokenizer; `published`, `run:` and `dir:` find it."""
    folder = outputs.file(PUBLISHED, PUBLISHED)
    folder.mkdir(parents=True, exist_ok=True)
    room("models.publish").publish(network, tokenizer, folder)


def published(stage: Opened) -> str:
    """The source of the network that a stage published.

    Raises:
        DataError: it published none.
    """
    return f"dir:{stage.file(PUBLISHED).parent}"


def trained_part(trained: Opened) -> Path:
    """What a stage trained: the file of all weights, or else the folder of its adapter.

    Raises:
        DataError: it trained neither.
    """
    whole = any(info.role == "weights" for info in trained.manifest.files)
    return trained.file("weights") if whole else trained.file("adapter").parent


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
