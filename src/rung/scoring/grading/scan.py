"""What a solution's text has that a function task does not need: walking frames, reading memory, tracing, reloading.

An alarm says where to look. It is never a verdict: honest programs have such words too, and a program that wants to
hide them can. What holds against forgery is that tests and answers are out of reach (`grade.py`).
"""

from __future__ import annotations

import ast
import re

__all__ = ["alarms"]

_MODULES = {
    "ctypes": "memory", "cffi": "memory", "mmap": "memory", "gc": "object graph", "inspect": "frames",
    "traceback": "frames", "trace": "tracing", "bdb": "tracing", "pdb": "tracing", "atexit": "exit hooks",
    "signal": "signals", "importlib": "reloading", "multiprocessing": "processes", "subprocess": "processes",
    "socket": "network",
}  # fmt: skip
_NAMES = {
    "_getframe": "frames", "f_back": "frames", "f_locals": "frames", "f_globals": "frames", "gi_frame": "frames",
    "tb_frame": "frames", "cr_frame": "frames", "currentframe": "frames", "co_consts": "bytecode",
    "__code__": "bytecode", "co_code": "bytecode", "settrace": "tracing", "setprofile": "tracing",
    "_current_frames": "frames", "get_objects": "object graph", "get_referrers": "object graph",
    "__subclasses__": "object graph", "reload": "reloading", "_exit": "exit", "_answers": "pipe", "_requests": "pipe",
    "__eq__": "own equality", "__del__": "finalisers", "modules": "reloading", "fork": "processes",
    "addaudithook": "tracing",
}  # fmt: skip
_WORD = re.compile(r"[A-Za-z_]\w*")


def alarms(code: str) -> tuple[str, ...]:
    """What is there, as `kind: word`, sorted; words inside strings count, for `getattr` takes them. Text that is no
    Python gives none: it does not run."""
    try:
        tree = ast.parse(code)
    except (SyntaxError, ValueError, RecursionError, MemoryError):
        return ()
    found: set[str] = set()
    for node in ast.walk(tree):
        found.update(_seen(node))
    return tuple(sorted(found))


def _seen(node: ast.AST) -> set[str]:
    words: list[str] = []
    modules: list[str] = []
    if isinstance(node, ast.Import):
        modules = [alias.name.split(".")[0] for alias in node.names]
    elif isinstance(node, ast.ImportFrom):
        modules, words = [(node.module or "").split(".")[0]], [alias.name for alias in node.names]
    elif isinstance(node, ast.Attribute):
        words = [node.attr]
    elif isinstance(node, ast.Name):
        words = [node.id]
    elif isinstance(node, ast.FunctionDef):
        words = [node.name]
    elif isinstance(node, ast.Constant) and isinstance(node.value, str):
        words = [word for word in _WORD.findall(node.value[:10_000]) if word.startswith("_")]
    return {f"{_MODULES[m]}: {m}" for m in modules if m in _MODULES} | {
        f"{_NAMES[w]}: {w}" for w in words if w in _NAMES
    }
