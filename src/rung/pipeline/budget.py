"""Budget: what a run may cost, debited while it runs. A cap stops work before it is passed, never after.

A stage's loop is: `reserve` what the next piece will take, do it, save it, `spend` what it took. A stage that does not
announce its pieces only calls `spend` (after saving); the next piece is then expected to be like the last.
Work in other processes is debited here as they report it (`debit`, within `elsewhere`).
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass

from rung.base.errors import BudgetSpent, Interrupted
from rung.base.settings import Field, Settings

__all__ = ["CAPPED", "Budget", "BudgetSettings", "Spend"]

CAPPED = ("tokens", "seconds", "money")


class BudgetSettings(Settings):
    """Caps of a whole run, over all its attempts; an absent cap does not limit."""

    tokens: float | None = Field(None, ge=0, description="cap on generated and trained tokens")
    seconds: float | None = Field(None, ge=0, description="cap on seconds of work")
    money: float | None = Field(None, ge=0, description="cap on money, in the currency of the price")
    price_per_hour: float = Field(0.0, ge=0, description="what an hour of this machine costs")


@dataclass(frozen=True, slots=True)
class Spend:
    """An amount: seconds of devices at work (several at once add up), tokens, money, and seconds by the clock."""

    seconds: float = 0.0
    tokens: float = 0.0
    money: float = 0.0
    wall_seconds: float = 0.0

    def __add__(self, other: Spend) -> Spend:
        return Spend(
            self.seconds + other.seconds,
            self.tokens + other.tokens,
            self.money + other.money,
            self.wall_seconds + other.wall_seconds,
        )

    def __sub__(self, other: Spend) -> Spend:
        return self + Spend(-other.seconds, -other.tokens, -other.money, -other.wall_seconds)


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
        ask: in a worker, whose caps are what the parent allowed it so far: asked for larger ones that let it spend so
            much in all, before a piece is refused. None is a no.
    """

    def __init__(
        self,
        settings: BudgetSettings | None = None,
        before: Spend = Spend(),
        stop: Callable[[], bool] = _never,
        clock: Callable[[], float] = time.monotonic,
        *,
        saved: Callable[[Spend], None] | None = None,
        ask: Callable[[Spend], BudgetSettings | None] | None = None,
    ) -> None:
        self.settings, self._before, self._stop = settings or BudgetSettings(), before, stop
        self._clock, self._saved, self._ask = clock, saved, ask
        self._last = clock()
        self._stage = Spend()
        self._piece_seconds = 0.0
        self._last_piece, self._reserved = Spend(), False
        self._durations: deque[float] = deque(maxlen=8)
        self._elsewhere = False
        self._running_tokens, self._largest_step = 0.0, 0.0

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

    def reserve_like(self, piece: Spend) -> None:
        """`reserve` for a piece that will cost what `piece` did, the price of its time included.

        Raises:
            Interrupted, BudgetSpent: as `reserve` does.
        """
        self._tick()
        self._poll()
        self._check(piece)
        self._reserved = True

    def spend(self, tokens: float = 0.0, seconds: float = 0.0, money: float = 0.0) -> None:
        """Debit a piece that is done and saved. Time since the last call is debited by itself; `seconds` are those of
        other machines on top of it, `money` is what was charged apart (a review, a hosted call). Tokens that `poll`
        debited since the last piece are part of `tokens` and not paid for twice.

        Raises:
            Interrupted: somebody asked to stop.
            BudgetSpent: a cap is passed, or would be by another piece like this one that was not announced.
        """
        self._pay(tokens, seconds, money)
        self._poll()
        self._check(Spend() if self._reserved else self._last_piece)
        self._reserved = False

    def finish(self, tokens: float = 0.0) -> None:
        """`spend` for the last piece: nothing follows it, so neither a cap nor a stop request is a reason to throw away
        what is done."""
        self._pay(tokens, 0.0, 0.0)
        self._reserved = False

    def poll(self, tokens: float = 0.0) -> None:
        """Look for a stop request and at the caps between the small steps of a piece. `tokens` are those of the step:
        they are debited at once, so that a piece ends before it passes the cap and not after.

        Raises:
            Interrupted: somebody asked to stop.
            BudgetSpent: a cap is passed already, or another step as large as the largest would pass it.
        """
        self._tick()
        if tokens:
            self._running_tokens += tokens
            self._largest_step = max(self._largest_step, tokens)
            self._add(Spend(tokens=tokens))
        self._poll()
        self._check(Spend(tokens=self._largest_step if tokens else 0.0))

    def allows(self, money: float) -> bool:
        """Whether so much more money may be spent, on top of all that was debited. In a worker, whoever lends it caps
        is asked."""
        self._tick()
        after = self.total + Spend(money=money)
        if self._ask is not None and "money" in self._passed(after):
            self.settings = self._ask(after) or self.settings
        return "money" not in self._passed(after)

    def debit(self, amount: Spend) -> None:
        """Take note of what another process spent already; a cap is looked at by the next `poll`."""
        self._tick()
        self._add(amount)

    @contextlib.contextmanager
    def elsewhere(self) -> Iterator[None]:
        """While the block runs, the devices that work are those of other processes: time here is only the clock's."""
        self._tick()
        self._elsewhere = True
        try:
            yield
        finally:
            self._tick()
            self._elsewhere = False

    def settle(self) -> Spend:
        """Debit the time since the last call and return the attempt's spend, without saving or checking it."""
        self._saved = None
        self._tick()
        return self._stage

    def _tick(self) -> None:
        now = self._clock()
        elapsed, self._last = now - self._last, now
        worked = 0.0 if self._elsewhere else elapsed
        self._piece_seconds += worked
        self._add(Spend(worked, 0.0, self._price(worked), elapsed))

    def _add(self, amount: Spend) -> None:
        self._stage = self._stage + amount
        if self._saved:
            self._saved(self._stage)

    def _pay(self, tokens: float, seconds: float, money: float) -> None:
        self._tick()
        elapsed, self._piece_seconds = self._piece_seconds, 0.0
        self._durations.append(elapsed)
        self._add(Spend(seconds, max(0.0, tokens - self._running_tokens), money + self._price(seconds)))
        self._running_tokens = 0.0
        self._last_piece = Spend(elapsed + seconds, tokens, money + self._price(elapsed + seconds))

    def _price(self, seconds: float) -> float:
        return seconds / 3600 * self.settings.price_per_hour

    def _poll(self) -> None:
        if self._stop():
            raise Interrupted("stopped on request", hint="run the same command again to go on from here")

    def _check(self, next_piece: Spend) -> None:
        after = self.total + next_piece
        if self._ask is not None and self._passed(after):
            self.settings = self._ask(after) or self.settings
        for name in self._passed(after):
            cap, used, then = getattr(self.settings, name), getattr(self.total, name), getattr(after, name)
            raise BudgetSpent(
                f"the cap of {cap:g} {name} has no room for the next piece: {used:.6g} spent, {then:.6g} with it",
                place=f"budget.{name}",
                hint=f"raise it and run again to go on: --set budget.{name}=...",
            )

    def _passed(self, after: Spend) -> list[str]:
        caps = {name: getattr(self.settings, name) for name in CAPPED}
        return [name for name, cap in caps.items() if cap is not None and getattr(after, name) > cap]
