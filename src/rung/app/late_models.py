"""The keeper of models, imported when the first model is asked for: a recipe without one never waits for torch.

Workers of a run make their own, by this file's name.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from rung.base.lookup import lookup

__all__ = ["LateModels"]


class LateModels:
    """As `rung.app.models_keeper.ModelsKeeper`, later."""

    def __init__(self) -> None:
        self._keeper: Any = None

    def load(self, source: str, adapter: Path | None = None, *, clean: bool = True, precision: str = "auto") -> Any:
        """As `rung.app.models_keeper.ModelsKeeper.load`."""
        return self._there().load(source, adapter, clean=clean, precision=precision)

    def release(self) -> None:
        """Free what is loaded, if anything ever was."""
        if self._keeper is not None:
            self._keeper.release()

    def _there(self) -> Any:
        if self._keeper is None:
            self._keeper = lookup("app", "models_keeper")()
        return self._keeper
