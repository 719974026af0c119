"""Loads models for stages, one at a time. Imported by name when a command runs models, because it brings torch."""

from __future__ import annotations

import gc
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from rung.base.errors import SettingsError
from rung.models.load import Loaded, load, replace_weights
from rung.train.adapters import WHOLE_WEIGHTS, attach_adapter

__all__ = ["ModelsKeeper"]


class ModelsKeeper:
    """Keeps the promise `rung.pipeline.stage.Models`.

    Asking for what is loaded already gives it again, unless somebody has changed its weights or put an adapter on it
    since; asking for anything else frees the last one first, so two models are never in memory together.

    Args:
        load_model: source -> model; replaced in tests.
        attach: puts the adapter of a folder on a network.
    """

    def __init__(
        self,
        load_model: Callable[..., Loaded] = load,
        attach: Callable[[Any, Path], None] = attach_adapter,
    ) -> None:
        self._load, self._attach = load_model, attach
        self._wanted: tuple[str, Path | None, bool, str] | None = None
        self._loaded: Loaded | None = None
        self._as_loaded: tuple[tuple[str, int, int], ...] = ()
        self.num_loads = 0

    def load(self, source: str, adapter: Path | None = None, *, clean: bool = True, precision: str = "auto") -> Loaded:
        """The model of `source`, with the adapter that lies in `adapter` (a folder, or a file in it), or filled
        from the file of weights that `adapter` is. With `clean` false it need not be a base model. `precision` is as
        in `rung.models.load.load`.

        Raises:
            SettingsError: no source was named.
            ModelError: not found, broken, or what was trained does not fit.
            GuardFailed: not a clean base model.
        """
        if not source:
            raise SettingsError("the recipe names no model", place="model", hint="model: package:NAME, or hf:ORG/NAME")
        whole = adapter is not None and adapter.name == WHOLE_WEIGHTS
        trained = adapter.parent if adapter is not None and adapter.is_file() and not whole else adapter
        wanted = (source, trained, clean, precision)
        if self._loaded is not None and self._wanted == wanted and _state(self._loaded) == self._as_loaded:
            return self._loaded
        self.release()
        own = {} if precision == "auto" else {"precision": precision}
        loaded = self._load(source, **own) if clean else self._load(source, clean=False, strict=False, **own)
        self.num_loads += 1
        if trained is not None:
            (replace_weights if whole else self._attach)(loaded.network, trained)
        self._wanted, self._loaded, self._as_loaded = wanted, loaded, _state(loaded)
        return loaded

    def release(self) -> None:
        """Free what is loaded."""
        self._wanted, self._loaded, self._as_loaded = None, None, ()
        gc.collect()
        if torch.cuda.is_available():
            torch.cuda.empty_cache()


def _state(loaded: Loaded) -> tuple[tuple[str, int, int], ...]:
    """Changes with every write to a weight and with every module put in: torch counts writes in `_version`."""
    return tuple((name, id(weight), weight._version) for name, weight in loaded.network.named_parameters())
