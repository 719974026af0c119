"""What workers are told: where the interpreter and the system's libraries lie, and what stays out of sight."""

from __future__ import annotations

import importlib.util
import os
import sys
import sysconfig
from collections.abc import Sequence
from pathlib import Path

from rung.scoring.sandbox.inside.wire import Plan

__all__ = ["INTERPRETER", "plan_for", "slot_user"]

# The interpreter itself, not the link to it in a virtual environment.
INTERPRETER = os.path.realpath(getattr(sys, "_base_executable", sys.executable))
_SYSTEM = (
    "/lib", "/lib64", "/bin", "/usr/lib", "/usr/lib64", "/usr/bin", "/etc/ld.so.cache", "/usr/share/zoneinfo",
)  # fmt: skip
_HIDDEN = ("site-packages", "dist-packages")
_PREIMPORT = (
    "math", "itertools", "collections", "functools", "operator", "re", "heapq", "bisect", "typing", "string", "json",
    "dataclasses", "datetime", "decimal", "fractions", "statistics", "copy", "io", "threading", "queue", "time",
    "traceback", "contextlib", "enum", "abc", "array", "hashlib", "textwrap", "asyncio",
)  # fmt: skip
_FIRST_USER, _MOST_SLOTS, _MOST_PIDS = 1_000_000, 256, 4_194_304


def slot_user(slot: int) -> int:
    """The user and group of a slot: no other living process of this machine has it; -1 when not started as root."""
    if os.geteuid() != 0:
        return -1
    return _FIRST_USER + (os.getpid() % _MOST_PIDS) * _MOST_SLOTS + slot


def plan_for(slot: int, packages: Sequence[str], *, namespaces: bool, hardened: bool = True) -> Plan:
    """The plan of the worker of `slot`."""
    hidden = _hidden_folders()
    found = tuple(entry for name in packages for entry in _package_folders(name))
    readable, listable = _readable(), [str(Path(path).parent) for _, path in found]
    if not namespaces:
        pieces = [_without(path, hidden) for path in readable]
        readable = [path for kept, _ in pieces for path in kept] + [path for _, path in found]
        listable += [path for _, opened in pieces for path in opened]
    return Plan(
        namespaces,
        hardened,
        slot_user(slot) if namespaces or (hardened and _open_to_all()) else -1,
        readable=tuple(readable),
        listable=tuple(listable),
        hidden=tuple(hidden),
        packages=found,
        preimport=(*_PREIMPORT, *packages, *(f"{name}.random" for name in packages if name == "numpy")),
    )


def _open_to_all() -> bool:
    """Whether another user could start the interpreter: not when it lies below a closed home."""
    return all(folder.stat().st_mode & 0o001 for folder in Path(INTERPRETER).parents)


def _readable() -> list[str]:
    # In a virtual environment, the default for compiled modules would be the environment, packages and all.
    base = {"platbase": sys.base_exec_prefix, "installed_platbase": sys.base_exec_prefix}
    compiled = sysconfig.get_path("platstdlib", vars=base)
    own = [INTERPRETER, f"{sys.base_prefix}/lib", sysconfig.get_path("stdlib"), compiled]
    return [path for path in dict.fromkeys([*_SYSTEM, *own]) if os.path.exists(path)]


def _hidden_folders() -> list[str]:
    """Folders of installed packages inside what is readable."""
    roots = {sysconfig.get_path("stdlib"), f"{sys.base_prefix}/lib", "/usr/lib/python3"}
    return sorted(f"{root}/{name}" for root in roots for name in _HIDDEN if os.path.isdir(f"{root}/{name}"))


def _package_folders(name: str) -> list[tuple[str, str]]:
    """(name, path) of a package's folder and of the folder of libraries that its wheel brought along; of a module that
    is one file, of the file."""
    spec = importlib.util.find_spec(name)
    if spec is not None and spec.has_location and spec.origin and not spec.submodule_search_locations:
        return [(Path(spec.origin).name, spec.origin)]
    if spec is None or not spec.submodule_search_locations:
        return []
    folder = Path(next(iter(spec.submodule_search_locations)))
    beside = folder.with_name(f"{folder.name}.libs")
    return [(path.name, str(path)) for path in (folder, beside) if path.is_dir()]


def _without(path: str, hidden: Sequence[str]) -> tuple[list[str], list[str]]:
    """(paths that together are `path` without the hidden folders, the folders that had to be opened for that)."""
    if path in hidden:
        return [], []
    if not any(folder.startswith(path.rstrip("/") + "/") for folder in hidden):
        return [path], []
    kept, opened = [], [path]
    for entry in sorted(os.listdir(path)):
        inner_kept, inner_opened = _without(f"{path}/{entry}", hidden)
        kept += inner_kept
        opened += inner_opened
    return kept, opened
