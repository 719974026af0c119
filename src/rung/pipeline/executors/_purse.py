"""What is left under the caps of a run, lent to its workers piece by piece.

A worker may spend what it was lent and asks before it spends more. What is lent to one is not there for another, so
the sum stays under the caps however many work at once.
"""

from __future__ import annotations

from dataclasses import asdict

from rung.pipeline.budget import CAPPED, Budget, BudgetSettings, Spend

__all__ = ["Purse"]

# Of what is left, and for all workers together: asking rarely against leaving others without.
_LENT_AT_ONCE = 0.1


class Purse:
    """Debits what workers report and lends what is left.

    Args:
        budget: of the run.
        num_workers: how many may ask.
    """

    def __init__(self, budget: Budget, num_workers: int) -> None:
        self._budget, self._num_workers = budget, num_workers
        self._spent: dict[int, Spend] = {}
        self._lent: dict[int, Spend] = {}
        self._begun: dict[int, Spend] = {}
        self._piece = Spend()

    def open(self, worker: int) -> None:
        """A new worker, which has spent nothing."""
        self._spent[worker] = self._lent[worker] = Spend()

    def report(self, worker: int, spend: Spend) -> None:
        """A worker has spent so much since it began."""
        now = Spend(spend.seconds, spend.tokens, spend.money)
        self._budget.debit(now - self._spent[worker])
        self._spent[worker] = now

    def silent(self, worker: int, seconds: float) -> None:
        """A worker held its device for so long after its last report, and ended without another."""
        money = seconds / 3600 * self._budget.settings.price_per_hour
        self.report(worker, self._spent[worker] + Spend(seconds, money=money))

    def close(self, worker: int) -> None:
        """A worker is gone, or its shard is: what it did not spend is there for others again."""
        self._lent[worker] = self._spent[worker]
        self._begun.pop(worker, None)

    def spent(self, worker: int) -> Spend:
        """What a worker reported last."""
        return self._spent[worker]

    def lend(self, worker: int, piece: Spend) -> BudgetSettings | None:
        """Caps under which a worker may begin a piece that costs so much; None: there is no room for it. From now on
        open pieces that were begun before so much was known of their cost are expected to cost that too."""
        self._piece = piece
        caps = self._caps(worker, piece, more=0.0)
        if caps is not None:
            self._begun[worker] = self._spent[worker]
        return caps

    def lend_more(self, worker: int, wanted: Spend) -> BudgetSettings | None:
        """Caps that let a worker spend `wanted` in all, and a little more so that it need not ask at every step."""
        return self._caps(worker, wanted - self._spent[worker], more=_LENT_AT_ONCE / self._num_workers)

    def _caps(self, worker: int, needed: Spend, more: float) -> BudgetSettings | None:
        room, lent = self._room(worker), asdict(self._lent[worker])
        caps: dict[str, float] = {}
        for name, left in room.items():
            amount = getattr(needed, name)
            if amount > left:
                return None
            spent = getattr(self._spent[worker], name)
            caps[name] = max(lent[name], spent + min(left, max(amount, more * left)))
        self._lent[worker] = Spend(**{**lent, **caps})
        return BudgetSettings(price_per_hour=self._budget.settings.price_per_hour, **caps)

    def _room(self, worker: int) -> dict[str, float]:
        """What is left of each cap when everybody else spends what it was lent."""
        rooms = {}
        for name in CAPPED:
            cap = getattr(self._budget.settings, name)
            if cap is not None:
                held = sum(self._held(other, name) for other in self._lent if other != worker)
                rooms[name] = cap - getattr(self._budget.total, name) - held
        return rooms

    def _held(self, worker: int, name: str) -> float:
        """What a worker may still spend of what it was lent, or will need for its open piece."""
        needed = self._begun[worker] + self._piece if worker in self._begun else Spend()
        spent = self._spent[worker]
        return max(0.0, float(getattr(self._lent[worker] - spent, name)), float(getattr(needed - spent, name)))
