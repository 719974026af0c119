"""Stop strings: matched as strings over decoded text, never by a token (a colon is the last token of several)."""

from __future__ import annotations

from collections.abc import Sequence

__all__ = ["cut_at_stop", "may_become_stop"]


def cut_at_stop(text: str, stop: Sequence[str]) -> tuple[str, bool]:
    """`text` up to the earliest stop string, and whether there was one."""
    found = [place for s in stop if (place := text.find(s)) >= 0]
    return (text[: min(found)], True) if found else (text, False)


def may_become_stop(text: str, stop: Sequence[str]) -> int:
    """How many characters at the end of `text` could still be the beginning of a stop string (streaming holds them)."""
    longest = max((len(s) for s in stop), default=1)
    for length in range(min(longest - 1, len(text)), 0, -1):
        if any(s.startswith(text[-length:]) for s in stop):
            return length
    return 0
