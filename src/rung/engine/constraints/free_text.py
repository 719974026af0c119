"""Any text until a marker has been written, byte by byte: what tokens may come, and what each leaves to be done.

The marker is looked for as Knuth, Morris and Pratt do (1977), over bytes, so a token may hold any part of it, and its
end with what follows. Characters are whole: half of one is never left behind.

Legend: S states, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch

from rung.base.errors import SettingsError
from rung.engine.constraints.matching import Fitting, Spellings
from rung.engine.constraints.places import NEVER
from rung.engine.constraints.utf8 import UTF8, UTF8_LEFT, continued, finished, lead

__all__ = ["Free", "FreeText"]

_DONE, _DEAD = -1, -2
_Numbers = np.ndarray[tuple[int, ...], np.dtype[np.int64]]


@dataclass(frozen=True, slots=True)
class Free:
    """What may come at a state: tokens that stay in the free text, with the tokens that then suffice for the marker;
    and tokens that end the marker, each with its bytes beyond it."""

    within: Fitting
    beyond: tuple[tuple[int, bytes], ...]


class FreeText:
    """The states of a text before its marker ends: how much of the marker it ends with, or where it is in a character.

    Args:
        marker: text of at least one character.
        spellings: of the vocabulary.

    Attributes:
        cost: by state, the tokens that suffice to write (the rest of) the marker.

    Raises:
        SettingsError: the vocabulary cannot spell the marker.
    """

    def __init__(self, marker: bytes, spellings: Spellings) -> None:
        self._marker, self._spellings = marker, spellings
        self._utf8 = [0]
        for byte in marker[:-1]:
            self._utf8.append(_character(self._utf8[-1], byte) or 0)
        self._next = np.array([[self._step(state, b) for b in range(256)] for state in range(len(marker) + len(UTF8))])
        self.cost = self._costs()
        self._free: dict[int, Free] = {}
        if self.cost[0] >= NEVER:
            raise SettingsError(
                f"the model's tokens cannot spell the marker {marker.decode()!r}",
                place="constraint.marker",
                hint="choose another",
            )

    def read(self, state: int, data: bytes) -> tuple[int, bytes] | None:
        """The state after some bytes, and those beyond the marker (state -1: it is written); None: they do not fit."""
        for place, byte in enumerate(data, 1):
            state = int(self._next[state, byte])
            if state == _DONE:
                return _DONE, data[place:]
            if state == _DEAD:
                return None
        return state, b""

    def free(self, state: int) -> Free:
        """What may come at a state; looked up once."""
        if state not in self._free:
            self._free[state] = self._find(state)
        return self._free[state]

    def _step(self, state: int, byte: int) -> int:
        """States below the marker's length say how much of it is there; those above, how a character goes on."""
        size = len(self._marker)
        num, utf8 = (state, self._utf8[state]) if state < size else (0, state - size + 1)
        reached = _character(utf8, byte)
        if reached is None:
            return _DEAD
        seen = self._marker[:num] + bytes([byte])
        most = next((k for k in range(min(len(seen), size), 0, -1) if seen.endswith(self._marker[:k])), 0)
        if most == size:
            return _DONE
        return most if most or not reached else size + reached - 1

    def _costs(self) -> list[int]:
        """The fewest tokens that spell the rest of the marker; in a character, its bytes one by one before them."""
        spelled = {token for token in self._spellings.vocabulary.tokens if token}
        longest = max(map(len, spelled), default=0)
        size = len(self._marker)
        costs = [NEVER] * size + [0]
        for start in reversed(range(size)):
            ends = range(start + 1, min(size, start + longest) + 1)
            costs[start] = min(
                NEVER, 1 + min((costs[e] for e in ends if self._marker[start:e] in spelled), default=NEVER)
            )
        whole = finished(frozenset(token[0] for token in spelled if len(token) == 1))
        inside = [min(NEVER, UTF8_LEFT[u] + costs[0]) if u in whole else NEVER for u in sorted(UTF8)]
        return [*costs[:size], *inside]

    def _find(self, state: int) -> Free:
        """Walk all tokens at once."""
        table = self._spellings
        rows, here = np.arange(len(table.ids)), np.full(len(table.ids), state, dtype=np.int64)
        stay, left, beyond = list[_Numbers](), list[_Numbers](), list[tuple[int, bytes]]()
        cost = np.array(self.cost, dtype=np.int64)
        for level in range(table.bytes.shape[1]):
            here = self._next[here, table.bytes[rows, level]]
            for row in rows[here == _DONE]:
                beyond.append((int(table.ids[row]), table.bytes[row, level + 1 : table.lengths[row]].tobytes()))
            ends = (here >= 0) & (table.lengths[rows] == level + 1)
            stay.append(table.ids[rows[ends]])
            left.append(cost[here[ends]])
            on = (here >= 0) & ~ends
            rows, here = rows[on], here[on]
        return Free(_fitting(np.concatenate(stay), np.concatenate(left), len(table.vocabulary.tokens)), tuple(beyond))


def _fitting(ids: _Numbers, left: _Numbers, width: int) -> Fitting:
    fits = left < NEVER
    steps = np.unique(left[fits]).tolist()
    return Fitting(torch.from_numpy(ids[fits]), torch.from_numpy(left[fits]), steps, (), width)


def _character(utf8: int, byte: int) -> int | None:
    return continued(utf8, byte) if utf8 else lead(byte)
