"""Every field of the settings that a recipe can set is read by some line of code, a user's own classes included.

A validated, documented setting that nothing reads is believed and does nothing (Soup 0.73.3: four of them;
NVIDIA-NeMo/RL#3271, unsloth#8464). Read means: an attribute of that name is loaded, or `getattr` asks for it, outside
the validators of the settings. For rung's classes that is anywhere in rung, for a user's in the user's own package; a
field that shares its name with one that is read elsewhere in the same sources therefore slips by.
"""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from functools import lru_cache
from pathlib import Path

from rung.base.settings import Settings
from rung.pipeline.audit import Check, Outcome, not_applicable, verdict
from rung.pipeline.checks._subject import Subject

__all__ = ["SettingsRead"]


class SettingsRead(Check):
    """Parses the sources that a settings class belongs to."""

    guards = "settings that nothing reads"

    def run(self, subject: Subject) -> Outcome:
        """Class by class, with those that they inherit from."""
        classes = list(dict.fromkeys(base for one in subject.settings_classes for base in _family(one)))
        if not classes:
            return not_applicable("no settings classes are named")
        read: dict[Path, set[str]] = {
            root: set().union(*map(_names_read, _files(root))) for root in set(map(_root, classes))
        }
        problems, num_fields = [], 0
        for one in classes:
            own = [name for name in one.__annotations__ if name in one.model_fields]
            unread = [name for name in own if name not in read[_root(one)]]
            problems += [f"nothing reads {one.__module__}.{one.__qualname__}.{name}" for name in unread]
            num_fields += len(own)
        return verdict(problems, f"{num_fields} fields of {len(classes)} settings classes are read")


def _family(one: type[Settings]) -> list[type[Settings]]:
    return [base for base in one.__mro__ if issubclass(base, Settings) and base is not Settings]


def _root(one: type[Settings]) -> Path:
    """The folder of the outermost package that the class is in, or its own file when it is in none."""
    path = Path(inspect.getfile(one)).resolve()
    depth = one.__module__.count(".") + (path.name == "__init__.py")
    return path if depth == 0 else path.parents[depth - 1]


def _files(root: Path) -> list[Path]:
    return sorted(root.rglob("*.py")) if root.is_dir() else [root]


def _names_read(path: Path) -> frozenset[str]:
    return _parsed(path, path.stat().st_mtime_ns)


@lru_cache(maxsize=4096)
def _parsed(path: Path, changed: int) -> frozenset[str]:
    """Names read in a file as it stood at `changed`; parsing all of rung takes over a second."""
    names: set[str] = set()
    for node in _outside_validators(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Attribute) and isinstance(node.ctx, ast.Load):
            names.add(node.attr)
        elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "getattr":
            names |= {a.value for a in node.args[1:2] if isinstance(a, ast.Constant) and isinstance(a.value, str)}
    return frozenset(names)


def _outside_validators(node: ast.AST) -> Iterator[ast.AST]:
    yield node
    for child in ast.iter_child_nodes(node):
        decorators = getattr(child, "decorator_list", [])
        if not any("validator" in ast.unparse(decorator) for decorator in decorators):
            yield from _outside_validators(child)
