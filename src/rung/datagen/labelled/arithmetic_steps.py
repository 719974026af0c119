"""Chains of sums and products, worked out line by line, with flaws planted in steps, in the end, or in both.

Nothing from outside is needed and every label is right by construction. `kinds` are what becomes of one chain:

- "sound": nothing is wrong.
- "step": a line states a wrong result, the next one goes on from the right one; the end is right.
- "corrected": the same, and the line after it puts it right; a clumsy way to a right end.
- "end": sound lines, and a conclusion that states another number.
- "dropped": sound lines without the last one, and a conclusion that answers a shorter question.
- "shuffled": sound lines in another order, and the right number.
- "carried": a wrong result that everything after it is worked out from; the end is wrong.

A line is sound when its equation holds. The whole is coherent when its lines lead, in order, to what was asked. Sound
answers rank above "step" and "corrected", those above all others.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from typing import Literal

from rung.base.errors import DataError
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.datagen.labelled_set import LabelledSet, LabelledSolution, solution, solution_pairs

__all__ = ["ArithmeticSteps"]

Kind = Literal["sound", "step", "corrected", "end", "dropped", "shuffled", "carried"]
_KINDS: tuple[Kind, ...] = ("sound", "step", "corrected", "end", "dropped", "shuffled", "carried")
_WORDS = {"+": "add {}", "-": "take away {}", "*": "multiply by {}"}
_Operation = tuple[str, int]


class ArithmeticStepsSettings(Settings):
    """How many chains, how hard, and which flaws."""

    count: int = Field(200, ge=1, description="different questions, each answered once per kind")
    num_steps: int = Field(3, ge=2, le=6, description="lines of a sound solution before its conclusion")
    largest: int = Field(9, ge=3, le=99, description="largest number that is started from, added or taken away")
    kinds: tuple[Kind, ...] = Field(_KINDS, min_length=1, description="what becomes of each chain")
    seed: int = Field(0, ge=0, description="of the draws")


class ArithmeticSteps:
    """Labelled solutions, and the pairs that their ranks make."""

    Settings = ArithmeticStepsSettings

    def __init__(self, settings: ArithmeticStepsSettings) -> None:
        self.settings = settings

    def make(self) -> LabelledSet:
        """All solutions, question after question.

        Raises:
            DataError: the settings allow fewer different questions.
        """
        seen: set[str] = set()
        solutions: list[LabelledSolution] = []
        for number in range(20 * self.settings.count):
            rng = random.Random(derive(self.settings.seed, "arithmetic_steps", number))
            start, chain = _drawn(rng, self.settings.num_steps, self.settings.largest)
            asked = _question(start, chain)
            if asked not in seen and len(seen) < self.settings.count:
                seen.add(asked)
                solutions += [_MAKE[kind](rng, asked, start, chain) for kind in self.settings.kinds]
        if len(seen) < self.settings.count:
            raise DataError(f"only {len(seen)} different questions", place="arithmetic_steps", hint="raise largest")
        return LabelledSet(pairs=solution_pairs(solutions), solutions=tuple(solutions))


def _drawn(rng: random.Random, num_steps: int, largest: int) -> tuple[int, list[_Operation]]:
    """A start and operations that neither fall below 1 nor rise beyond a few hundred."""
    start = value = rng.randint(2, largest)
    chain: list[_Operation] = []
    for _ in range(num_steps):
        sign = rng.choice("+-*" if value <= 30 else "+-")
        number = rng.randint(2, 4) if sign == "*" else rng.randint(1, largest)
        sign = "+" if sign == "-" and number >= value else sign
        chain.append((sign, number))
        value = _worked(value, sign, number)
    return start, chain


def _worked(value: int, sign: str, number: int) -> int:
    return value + number if sign == "+" else value - number if sign == "-" else value * number


def _question(start: int, chain: Sequence[_Operation]) -> str:
    return f"Start with {start}, {', '.join(_WORDS[sign].format(number) for sign, number in chain)}. What comes out?"


def _worked_lines(start: int, chain: Sequence[_Operation]) -> tuple[list[str], list[int]]:
    """A line for every operation, and the values before and after each."""
    values = [start]
    for sign, number in chain:
        values.append(_worked(values[-1], sign, number))
    lines = [f"{values[n]} {sign} {number} = {values[n + 1]}" for n, (sign, number) in enumerate(chain)]
    return lines, values


def _off(rng: random.Random, value: int) -> int:
    """Another number that is not far away."""
    return value + rng.choice([move for move in (-3, -2, -1, 1, 2, 3) if value + move > 0])


def _end(value: int) -> str:
    return f"The answer is {value}."


def _sound(rng: random.Random, asked: str, start: int, chain: Sequence[_Operation]) -> LabelledSolution:
    lines, values = _worked_lines(start, chain)
    return solution(asked, [*lines, _end(values[-1])], [1.0] * len(lines), 1.0, kind="sound", rank=2)


def _slipped(rng: random.Random, lines: list[str], values: Sequence[int]) -> int:
    """Put a wrong result into one of the lines; returns which."""
    place = rng.randrange(len(lines))
    lines[place] = f"{lines[place].rpartition('=')[0]}= {_off(rng, values[place + 1])}"
    return place


def _step(rng: random.Random, asked: str, start: int, chain: Sequence[_Operation]) -> LabelledSolution:
    lines, values = _worked_lines(start, chain)
    place = _slipped(rng, lines, values)
    labels = [float(n != place) for n in range(len(lines))]
    return solution(asked, [*lines, _end(values[-1])], labels, 1.0, kind="step", rank=1)


def _corrected(rng: random.Random, asked: str, start: int, chain: Sequence[_Operation]) -> LabelledSolution:
    lines, values = _worked_lines(start, chain)
    right = list(lines)
    place = _slipped(rng, lines, values)
    lines.insert(place + 1, f"No, {right[place]}")
    labels = [float(n != place) for n in range(len(lines))]
    return solution(asked, [*lines, _end(values[-1])], labels, 1.0, kind="corrected", rank=1)


def _wrong_end(rng: random.Random, asked: str, start: int, chain: Sequence[_Operation]) -> LabelledSolution:
    lines, values = _worked_lines(start, chain)
    return solution(asked, [*lines, _end(_off(rng, values[-1]))], [1.0] * len(lines), 0.0, kind="end")


def _dropped(rng: random.Random, asked: str, start: int, chain: Sequence[_Operation]) -> LabelledSolution:
    lines, values = _worked_lines(start, chain[:-1])
    return solution(asked, [*lines, _end(values[-1])], [1.0] * len(lines), 0.0, kind="dropped")


def _shuffled(rng: random.Random, asked: str, start: int, chain: Sequence[_Operation]) -> LabelledSolution:
    lines, values = _worked_lines(start, chain)
    turned = [*lines[1:], lines[0]] if rng.random() < 0.5 else lines[::-1]
    return solution(asked, [*turned, _end(values[-1])], [1.0] * len(lines), 0.0, kind="shuffled")


def _carried(rng: random.Random, asked: str, start: int, chain: Sequence[_Operation]) -> LabelledSolution:
    """The wrong result is one that the end cannot hide: what follows is sums, differences and products of it."""
    place = rng.randrange(len(chain))
    head, values = _worked_lines(start, chain[: place + 1])
    wrong = _off(rng, values[-1])
    head[-1] = f"{head[-1].rpartition('=')[0]}= {wrong}"
    tail, after = _worked_lines(wrong, chain[place + 1 :])
    labels = [float(n != place) for n in range(len(chain))]
    return solution(asked, [*head, *tail, _end(after[-1])], labels, 0.0, kind="carried")


_MAKE: dict[Kind, Callable[[random.Random, str, int, Sequence[_Operation]], LabelledSolution]] = {
    "sound": _sound,
    "step": _step,
    "corrected": _corrected,
    "end": _wrong_end,
    "dropped": _dropped,
    "shuffled": _shuffled,
    "carried": _carried,
}
