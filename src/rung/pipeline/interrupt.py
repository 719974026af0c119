"""Ctrl-C and SIGTERM: the first asks to stop at the next safe point, the second ends the process."""

from __future__ import annotations

import os
import signal
import threading
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any

__all__ = ["StopRequest"]

_SIGNALS = (signal.SIGINT, signal.SIGTERM)


def _to_terminal(text: str) -> None:
    # A handler may interrupt a write to a buffered stream, so it must not use one itself.
    os.write(2, text.encode())


class StopRequest:
    """Watches both signals while used as a context manager (in the main thread; elsewhere it never fires).

    `tell` receives the one line for the user; it runs inside a signal handler.
    """

    def __init__(self, tell: Callable[[str], None] = _to_terminal) -> None:
        self._tell, self._before, self.signal_name = tell, dict[signal.Signals, Any](), ""

    def requested(self) -> bool:
        """Whether somebody asked to stop."""
        return bool(self.signal_name)

    def request(self, name: str) -> None:
        """Ask from inside the process, as the first signal does."""
        self.signal_name = name

    def __enter__(self) -> StopRequest:
        if threading.current_thread() is threading.main_thread():
            self._before = {number: signal.signal(number, self._handle) for number in _SIGNALS}
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}

    def _handle(self, number: int, frame: FrameType | None) -> None:
        if self.signal_name:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)
            return
        self.signal_name = signal.Signals(number).name
        self._tell("\nstopping at the next safe point; once more ends it at once (both can be resumed)\n")
