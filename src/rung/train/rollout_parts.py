"""What a run on rollouts is made of: who plays, who rewards, who examines, who watches. All are handed in."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from rung.base.events import Events
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.records.rollout import Rollout
from rung.records.types import RolloutRecord

__all__ = ["Exam", "Mixed", "Parts", "Played", "Player", "Rewards", "Sat", "Watch"]


class Played(Protocol):
    """An item, played once."""

    @property
    def rollout(self) -> Rollout:
        """What is trained on."""

    @property
    def trace(self) -> Trace:
        """What is judged."""


class Player(Protocol):
    """Turns items into rollouts with the very network that is trained."""

    def play(self, items: Sequence[Item], seeds: Sequence[int], groups: Sequence[int]) -> Sequence[Played]:
        """One rollout per item, in order; each depends on its item and seed alone."""


class Mixed(Protocol):
    """Rewards of a batch: one score per answer, whose components are what each part added and `raw.<part>`."""

    @property
    def scores(self) -> tuple[Score, ...]:
        """In the order of the answers."""

    def log(self, events: Events, step: int) -> None:
        """Say every part's figures as metrics."""


class Rewards(Protocol):
    """What is trained on."""

    def mixed(self, items: Sequence[Item], traces: Sequence[Trace], groups: Sequence[int]) -> Mixed:
        """Score answers; those of one group are compared with each other."""


@dataclass(frozen=True, slots=True)
class Sat:
    """Held-out answers with their judgements by the verifier, one item or several answers to it after another."""

    items: tuple[Item, ...]
    traces: tuple[Trace, ...]
    scores: tuple[Score, ...]
    num_tokens: int = 0

    @property
    def rate(self) -> float:
        """Share of the judged answers that are wholly right; 0.0 when none could be judged."""
        given = [score.value >= 1.0 for score in self.scores if score.value is not None]
        return sum(given) / len(given) if given else 0.0


class Exam(Protocol):
    """Held-out items, answered by the network as it is."""

    def sit(self, step: int) -> Sat:
        """Answer and judge all of them."""


class Watch(Protocol):
    """Looks at held-out answers for a reward that no longer measures what it is for."""

    def observe(self, step: int, sat: Sat, events: Events) -> float | None:
        """Judge the answers once more; the share that really passes (None: could not tell)."""

    def reasons(self) -> tuple[str, ...]:
        """Why the run must end; empty: go on."""

    def state(self) -> Any:
        """All that it remembers, as JSON types."""

    def restore(self, state: Any) -> None:
        """Remember again what `state` gave."""


@dataclass(frozen=True)
class Parts:
    """Everything that a run on rollouts is lent.

    `accuracy` says right or wrong, apart from the rewards. `store` keeps the records of one step. `rest` is called
    between sampling and training, to give back what the sampler holds: nothing computed under old weights survives.
    `poll` is called between pieces of an update; what it raises ends the run, and the step is begun again later.
    `content` are plain values that belong to the run's identity (how is sampled, what is rewarded).
    """

    player: Player
    rewards: Rewards
    accuracy: Scorer
    store: Callable[[int, Sequence[RolloutRecord]], None]
    rest: Callable[[], None]
    poll: Callable[[], None] = lambda: None
    exam: Exam | None = None
    watch: Watch | None = None
    content: Any = None
