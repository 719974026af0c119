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

__all__ = ["model_facts", "open_engine", "polling", "room"]


def room(name: str) -> Any:
    """The module `rung.<name>`, imported now."""
    return importlib.import_module(f"rung.{name}")


def open_engine(
    context: Context, outputs: Outputs, settings: EngineSettings, source: str = "", adapter: Path | None = None
) -> Any:
    """The engine over `source` (the recipe's model when empty), with an adapter on it when one is given.

    Writes the loader's report to the manifest's `model` section.
    """
    loaded = context.models.load(source or context.model_source, adapter)
    outputs.note("model", model_facts(loaded))
    return room("engine.engine").Engine(loaded, settings, events=context.events, on_step=polling(context))


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


def polling(context: Context) -> Callable[[int], None]:
    """A callback for every step of generation: a stop request or a spent cap ends the work within a second."""
    return lambda num_tokens: context.budget.poll(tokens=num_tokens)
