"""Python that `ast.parse` accepts: `{"python": {}}`. The rules are in `rung.engine.constraints.python`."""

from __future__ import annotations

import importlib
from collections.abc import Mapping
from typing import Any

from rung.base.errors import SettingsError
from rung.engine.constraints.matching import Spellings
from rung.engine.constraints.protocol import Constraint

__all__ = ["compile_of_python"]


def compile_of_python(what: Any, spellings: Spellings) -> Constraint:
    """The constraint with its settings.

    Raises:
        SettingsError: settings that are wrong.
    """
    if not isinstance(what, Mapping):
        raise SettingsError(f"{what!r} are no settings", place="constraint", hint='write {"python": {}}')
    module = importlib.import_module("rung.engine.constraints.python")
    made: Constraint = module.compile_python(what, spellings.vocabulary)
    return made
