"""The folder is the registry: a part named in a recipe is a file of that name.

`lookup("scoring.judges", "choice")` imports `rung.scoring.judges.choice` and returns the one name in its `__all__`.
A dotted name with a colon (`my_package.my_module:MyJudge`) loads a user's own class.
"""

from __future__ import annotations

import importlib
import importlib.util
import pkgutil
from typing import Any

from rung.base.errors import SettingsError
from rung.base.settings import Settings, nearest, validate

__all__ = ["known", "lookup", "part"]


def known(folder: str) -> list[str]:
    """Names of the parts in `rung.<folder>`, sorted; nothing is imported but the folder itself."""
    package = importlib.import_module(f"rung.{folder}")
    return sorted(info.name for info in pkgutil.iter_modules(package.__path__) if not info.name.startswith("_"))


def lookup(folder: str, name: str, place: str = "") -> Any:
    """The public object of part `name` in `rung.<folder>`, or of a user's `module:Name`.

    Raises:
        SettingsError: unknown name (the known ones are listed), or a module without exactly one public name.
    """
    if ":" in name:
        return _users_own(name, place)
    names = known(folder)
    if name not in names:
        raise SettingsError(f"no {folder} part is called '{name}'", place=place, hint=nearest(name, names))
    module = importlib.import_module(f"rung.{folder}.{name}")
    public = list(getattr(module, "__all__", []))
    if len(public) != 1:
        raise SettingsError(f"rung.{folder}.{name} must export exactly one name, it exports {public}", place=place)
    return getattr(module, public[0])


def part(folder: str, spec: str | dict[str, Any], place: str = "") -> tuple[Any, Settings]:
    """Resolve `name` or `{kind: name, ...settings}` to (class, its validated settings).

    The class carries its settings model as the attribute `Settings`.
    """
    values = {"kind": spec} if isinstance(spec, str) else dict(spec)
    if "kind" not in values:
        raise SettingsError("a part needs a 'kind'", place=place, hint=f"known: {', '.join(known(folder))}")
    kind = values.pop("kind")
    found = lookup(folder, kind, place)
    return found, validate(found.Settings, values, f"{place}.{kind}" if place else kind)


def _users_own(name: str, place: str) -> Any:
    module_name, _, attribute = name.partition(":")
    try:
        found = importlib.util.find_spec(module_name)
    except ModuleNotFoundError:
        found = None
    if found is None:
        raise SettingsError(f"cannot import '{module_name}'", place=place, hint="is it on PYTHONPATH?")
    module = importlib.import_module(module_name)
    if not hasattr(module, attribute):
        raise SettingsError(
            f"'{module_name}' has no '{attribute}'",
            place=place,
            hint=nearest(attribute, [n for n in dir(module) if not n.startswith("_")]),
        )
    return getattr(module, attribute)
