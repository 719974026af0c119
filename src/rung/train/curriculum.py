"""A curriculum: the easy examples first, the others when the network is competent enough, each as often as without.

Competence (Platanios et al., 2019, NAACL, arXiv 1903.09848): step t draws its examples from the easiest share c(t) of
them, with c(t) = min(1, sqrt(t (1 - c0^2) / T + c0^2)). Easiest is by rank, so a difficulty's scale says nothing.

There an example may be drawn any number of times, so what a curriculum gave cannot be told from what came of showing
easy examples more often. Here every example has `epochs` showings, and a draw takes one of them away: the easy ones
are shown earlier, not more, and a run with a curriculum reads the very tokens that one without it reads. No step holds
an example twice. Both can always be kept. Up to the steps that fewer than `epochs` full steps follow any draw leaves a
rest that can be dealt; from there on every example is open, and those with the most showings left go first, which is
Ryser's construction of a matrix of zeros and ones with given sums (1957) and fails only where none exists.

The plan follows from difficulties, sizes and seed alone, so it is the same on any number of ranks and after a resume.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ClassVar, Protocol

from rung.base.seeds import stream
from rung.base.settings import Field, Settings

__all__ = ["Curriculum", "CurriculumSettings", "Draw", "Shown", "competence", "easy_to_hard"]


class CurriculumSettings(Settings):
    """How fast the harder examples come in."""

    start: float = Field(
        0.1, gt=0, le=1, description="share of the examples, the easiest, that the first step may read"
    )
    until: float = Field(0.5, gt=0, le=1, description="share of the steps after which every example may be read")


@dataclass(frozen=True, slots=True)
class Shown:
    """What a difficulty may look at. `trained` holds the tokens that each example trains, both answers of a pair one
    after the other. `losses` measures each under the network before training, in nats per trained token; of a pair it
    is the better answer's less the worse one's."""

    trained: Sequence[Sequence[int]]
    losses: Callable[[], Sequence[float]]


class Curriculum(Protocol):
    """A measure of difficulty, a part of `rung.train.curricula`. `measures` says that it asks for losses."""

    measures: ClassVar[bool]
    settings: CurriculumSettings

    def difficulties(self, shown: Shown) -> Sequence[float]:
        """One number for each example; higher is harder."""


@dataclass(frozen=True, slots=True)
class Draw:
    """The examples of one step, and the share of all that it could draw from."""

    indices: tuple[int, ...]
    share: float


def competence(step: int, num_steps: int, pacing: CurriculumSettings) -> float:
    """c(t) of step t, counted from 0."""
    done = step / (pacing.until * num_steps)
    return min(1.0, math.sqrt(done * (1 - pacing.start**2) + pacing.start**2))


def easy_to_hard(
    difficulties: Sequence[float], sizes: Sequence[int], epochs: int, pacing: CurriculumSettings, seed: int
) -> tuple[Draw, ...]:
    """Which examples each step trains on; `sizes` says how many, `epochs` times all of them together.

    Where those that are open have too few showings left for a step, the next easiest are opened before their time.
    Equal difficulties are told apart by number.
    """
    ranked = sorted(range(len(difficulties)), key=lambda index: (difficulties[index], index))
    left, owed = [epochs] * len(ranked), epochs * len(ranked)
    ready: list[int] = []  # open, with showings left
    plan, num_open = [], 0
    for step, size in enumerate(sizes):
        owed -= size
        ends = owed < epochs * max(sizes)
        wanted = len(ranked) if ends else math.ceil(competence(step, len(sizes), pacing) * len(ranked))
        while num_open < len(ranked) and (num_open < wanted or len(ready) < size):
            ready.append(ranked[num_open])
            num_open += 1
        random = stream(seed, "curriculum", step)
        if ends:
            random.shuffle(ready)
            ready.sort(key=lambda index: left[index])
        else:
            for place in range(len(ready) - 1, len(ready) - 1 - size, -1):
                other = random.randrange(place + 1)
                ready[place], ready[other] = ready[other], ready[place]
        chosen = ready[len(ready) - size :]
        del ready[len(ready) - size :]
        for index in chosen:
            left[index] -= 1
        ready += [index for index in chosen if left[index]]
        plan.append(Draw(tuple(chosen), num_open / len(ranked)))
    return tuple(plan)
