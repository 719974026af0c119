"""The scripted base model in any process that imports this: stages open it instead of an engine."""

from __future__ import annotations

from typing import Any

from pipeline_script import ScriptedModels, script

import rung.pipeline.stages.bootstrap as bootstrap
import rung.pipeline.stages.calibrate as calibrate

__all__ = ["Keeper", "open_scripted"]


def open_scripted(context: Any, outputs: Any, settings: Any, trained: Any = None) -> Any:
    """As `rung.pipeline.stages._model.open_engine`."""
    outputs.note("model", {"report": {"verdict": "clean"}})
    return script()


class Keeper(ScriptedModels):
    """The keeper of models of a worker; a worker has nobody who would patch it from outside."""

    def __init__(self) -> None:
        bootstrap.open_engine = calibrate.open_engine = open_scripted
