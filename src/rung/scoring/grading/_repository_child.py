"""The process of one test file: pytest as it is installed, with a plugin that tells each test's outcome down a pipe.

This file is sent as text. pytest is imported before the repository is on the path; no plugin is found by itself. The
code under test runs in this process, and could tell outcomes too: the run is believed only as far as its canaries.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest

__all__ = ["Telling", "main"]

_MOST_WORDS = 500
_PHASES = ("setup", "call", "teardown")


class Telling:
    """Tells `[nonce, id, outcome, words]` for each test once it is torn down, and for what cannot be collected."""

    def __init__(self, nonce: str, pipe: int) -> None:
        self._nonce, self._pipe = nonce, pipe
        self._phases: dict[str, list[Any]] = {}

    def pytest_runtest_logreport(self, report: Any) -> None:
        """A phase of a test has ended."""
        phases = self._phases.setdefault(report.nodeid, [])
        phases.append(report)
        if report.when == "teardown":
            plain = all(one.outcome == "passed" and not hasattr(one, "wasxfail") for one in phases)
            whole = tuple(one.when for one in phases) == _PHASES
            words = "; ".join(str(one.longrepr) for one in phases if one.longrepr)
            self._tell(report.nodeid, "passed" if plain and whole else "not passed", words)

    def pytest_collectreport(self, report: Any) -> None:
        """A file was read, or could not be."""
        if report.failed:
            self._tell(report.nodeid, "not collected", str(report.longrepr))

    def _tell(self, name: str, outcome: str, words: str) -> None:
        os.write(self._pipe, json.dumps([self._nonce, name, outcome, words[-_MOST_WORDS:]]).encode() + b"\n")


def main() -> None:
    """Take the order from standard input; never returns."""
    order = json.load(sys.stdin)
    sys.path += order["paths"]
    telling = Telling(order.pop("nonce"), order["pipe"])
    os._exit(int(pytest.main(order["arguments"], plugins=[telling])))
