"""Seconds by part of a running program: every part gets the time that is spent in it and in no part that it calls."""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from typing import Any
from unittest import mock

__all__ = ["Stopwatch"]


class Stopwatch:
    """Runs while functions of `parts` run that were called, through whatever, by one of part `root`.

    Args:
        parts: name of a part, and its functions: (class or module, name in it).
        root: the part that begins and ends it.

    `seconds` has all parts, also those that never ran.
    """

    def __init__(self, parts: Mapping[str, Sequence[tuple[Any, str]]], root: str) -> None:
        self.seconds: dict[str, float] = defaultdict(float, dict.fromkeys(parts, 0.0))
        self._parts, self._root = parts, root
        self._open: list[str] = []
        self._since = 0.0

    @contextmanager
    def running(self) -> Iterator[None]:
        """The functions are watched within it, and as they were after it."""
        with ExitStack() as stack:
            for part, places in self._parts.items():
                for owner, name in places:
                    watched = self._watched(part, getattr(owner, name))
                    stack.enter_context(mock.patch.object(owner, name, watched))
            yield

    def _watched(self, part: str, act: Callable[..., Any]) -> Callable[..., Any]:
        def watched(*args: Any, **kwargs: Any) -> Any:
            """As `act`, its time to `part`."""
            if not self._open and part != self._root:
                return act(*args, **kwargs)
            self._charge()
            self._open.append(part)
            try:
                return act(*args, **kwargs)
            finally:
                self._charge()
                self._open.pop()

        return watched

    def _charge(self) -> None:
        now = time.perf_counter()
        if self._open:
            self.seconds[self._open[-1]] += now - self._since
        self._since = now
