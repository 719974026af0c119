"""Which names a task's tests leave to the solution: those that they use and that nobody else defines."""

from __future__ import annotations

import ast
import builtins
from collections.abc import Iterator, Sequence

__all__ = ["LIBRARY", "wanted_names"]

LIBRARY = frozenset(
    "bisect cmath collections copy datetime decimal fractions functools heapq itertools json math operator random re "
    "statistics string".split()
)
"""Modules that a test may use without importing them. They are always this side's own: were they the solution's,
`math.isclose` would be whatever it likes."""
_BUILTINS = frozenset(dir(builtins))


def wanted_names(code: Sequence[str], entry_point: str) -> list[str]:
    """Names to be asked for, the entry point first. A builtin is never one of them, unless it is the entry point."""
    used: dict[str, None] = {entry_point: None}
    bound: set[str] = set()
    for text in code:
        for node in ast.walk(ast.parse(text)):
            bound.update(_bound(node))
            if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Load):
                used[node.id] = None
    bound.discard(entry_point)
    return [name for name in used if name == entry_point or (name not in bound and name not in _BUILTINS)]


def _bound(node: ast.AST) -> Iterator[str]:
    if isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
        yield node.id
    elif isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.ClassDef)):
        yield node.name
    elif isinstance(node, ast.arg):
        yield node.arg
    elif isinstance(node, ast.alias):
        yield (node.asname or node.name).split(".")[0]
    elif isinstance(node, ast.ExceptHandler) and node.name:
        yield node.name
