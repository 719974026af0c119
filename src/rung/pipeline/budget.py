"""Budget: what a run may cost, debited while it runs. A cap stops work before it is passed, never after.

A stage's loop is: `reserve` what the next piece will take, do it, save it, `spend` what it took. A stage that does not
announce its pieces only calls `spend` (after saving); the next piece is then expected to be like the last.
"""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from dataclasses import dataclass

from rung.base.errors import BudgetSpent, Interrupted
from rung.base.settings import Field, Settings

__all__ = ["Budget", "BudgetSettings", "Spend"]


class BudgetSettings(Settings):
    """Caps of a whole run, over all its attempts; an absent cap does not limit."""

    tokens: float | None = Field(None, ge=0, description="cap on generated and trained tokens")
    seconds: float | None = Field(None, ge=0, description="cap on seconds of work")
    money: float | None = Field(None, ge=0, description="cap on money, in the currency of the price")
    price_per_hour: float = Field(0.0, ge=0, description="what an hour of this machine costs")


@dataclass(frozen=True, slots=True)
class Spend:
    """An amount: seconds of work, tokens, money."""

    seconds: float = 0.0
    tokens: float = 0.0
    money: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(self.seconds + other.seconds, self.tokens + other.tokens, self.money + other.money)


def _never() -> bool:
    return False


class Budget:
    """Running totals of a run, and of the stage attempt under way.

    Args:
        settings: caps and price.
        before: what earlier attempts and stages spent already (from the ledger).
        stop: asked between pieces; True raises `Interrupted`.
        clock: seconds, monotonic. Seconds of work are read from it; nobody has to report them.
        saved: called after every debit with the attempt's spend, so that a killed attempt is still paid for.
    """

    def __init__(
        self,
        settings: BudgetSettings | None = None,
        before: Spend = Spend(),
        stop: Callable[[], bool] = _never,
        clock: Callable[[], float] = time.monotonic,
        saved: Callable[[Spend], None] | None = None,
    ) -> None:
        self.settings, self._before, self._stop = settings or BudgetSettings(), before, stop
        self._clock, self._saved = clock, saved
        self._last = clock()
        self._stage = Spend()
        self._piece_seconds = 0.0
        self._last_piece, self._reserved = Spend(), False
        self._durations: deque[float] = deque(maxlen=8)

    @property
    def stage(self) -> Spend:
        """What this attempt of the stage spent so far, up to the last call."""
        return self._stage

    @property
    def total(self) -> Spend:
        """What the run spent so far."""
        return self._before + self._stage

    def reserve(self, tokens: float = 0.0, seconds: float | None = None, money: float = 0.0) -> None:
        """Announce the next piece of work before it is done. Without `seconds`, the longest of the last eight pieces
        is expected again.

        Raises:
            Interrupted: somebody asked to stop.
            BudgetSpent: with this piece a cap would be passed.
        """
        self._tick()
        self._poll()
        expected = max(self._durations, default=0.0) if seconds is None else seconds
        self._check(Spend(expected, tokens, money + self._price(expected)))
        self._reserved = True

    def spend(self, tokens: float = 0.0, seconds: float = 0.0, money: float = 0.0) -> None:
        """Debit a piece that is done and saved. Time since the last call is debited by itself; `seconds` are those of
        other machines on top of it, `money` is what was charged apart (a review, a hosted call).

        Raises:
            Interrupted: somebody asked to stop.
            BudgetSpent: a cap is passed, or would be by another piece like this one that was not announced.
        """
        self._tick()
        elapsed, self._piece_seconds = self._piece_seconds, 0.0
        self._durations.append(elapsed)
        self._add(Spend(seconds, tokens, money + self._price(seconds)))
        self._last_piece = Spend(elapsed + seconds, tokens, money + self._price(elapsed + seconds))
        self._poll()
        self._check(Spend() if self._reserved else self._last_piece)
        self._reserved = False

    def poll(self) -> None:
        """Look for a stop request and at the caps between small steps, without debiting a piece.

        Raises:
            Interrupted: somebody asked to stop.
            BudgetSpent: a cap is passed already.
        """
        self._tick()
        self._poll()
        self._check(Spend())

    def settle(self) -> Spend:
        """Debit the time since the last call and return the attempt's spend, without saving or checking it."""
        self._saved = None
        self._tick()
        return self._stage

    def _tick(self) -> None:
        now = self._clock()
        elapsed, self._last = now - self._last, now
        self._piece_seconds += elapsed
        self._add(Spend(elapsed, 0.0, self._price(elapsed)))

    def _add(self, amount: Spend) -> None:
        self._stage = self._stage + amount
        if self._saved:
            self._saved(self._stage)

    def _price(self, seconds: float) -> float:
        return seconds / 3600 * self.settings.price_per_hour

    def _poll(self) -> None:
        if self._stop():
            raise Interrupted("stopped on request", hint="run the same command again to go on from here")

    def _check(self, next_piece: Spend) -> None:
        after = self.total + next_piece
        for name in ("tokens", "seconds", "money"):
            cap, used, then = getattr(self.settings, name), getattr(self.total, name), getattr(after, name)
            if cap is not None and then > cap:
                raise BudgetSpent(
                    f"the cap of {cap:g} {name} has no room for the next piece: {used:.6g} spent, {then:.6g} with it",
                    place=f"budget.{name}",
                    hint=f"raise it and run again to go on: --set budget.{name}=...",
                )
