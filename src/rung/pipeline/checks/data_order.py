"""What a step reads follows from seed and step alone: a resumed run goes on where it stopped, and skips nothing.

Orders that live in a generator start over after a resume, so the beginning of the data is read twice and the end never
(prime-rl#3332, #3164, verl#3457, #7816). The order is asked for over three epochs in one process, and again in
a fresh one that begins in the middle, as a resumed run does. Under a curriculum an epoch is no unit: there all steps
together show each example as often as without one, the easier ones first.
"""

from __future__ import annotations

from collections import Counter

from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject

__all__ = ["DataOrder"]

_EPOCHS = 3


class DataOrderSettings(BaseSettings):
    """A data set that its steps do not divide."""

    num_examples: int = Field(37, ge=2, description="examples of an epoch")
    per_step: int = Field(8, ge=1, description="examples of a step")


class DataOrder(Check):
    """Every epoch whole, every order its own, and the same after a resume."""

    Settings = DataOrderSettings
    guards = "a resumed run that reads other data than one that never stopped"

    def run(self, subject: Subject) -> Outcome:
        """Ask for the order as a run and as resumed ones would."""
        own = self.settings
        steps = -(-own.num_examples // own.per_step)
        ask = subject.training.order()
        read = [tuple(ask(own.num_examples, own.per_step, 1, step)) for step in range(_EPOCHS * steps)]
        problems, epochs = [], list[list[int]]()
        for epoch in range(_EPOCHS):
            order = [index for step in read[epoch * steps : (epoch + 1) * steps] for index in step]
            missing = Counter(range(own.num_examples)) - Counter(order)
            if missing or len(order) != own.num_examples:
                problems.append(f"epoch {epoch} reads {len(order)} examples and leaves out {len(missing)} of them")
            epochs.append(order)
        if len({tuple(order) for order in epochs}) < _EPOCHS:
            problems.append("two epochs read in the same order")
        for first in (1, steps, steps + 2):
            resumed = subject.training.order()
            again = [tuple(resumed(own.num_examples, own.per_step, 1, step)) for step in range(first, len(read))]
            if again != read[first:]:
                place = next(n for n, (a, b) in enumerate(zip(again, read[first:], strict=True)) if a != b)
                problems.append(f"resumed at step {first}, step {first + place} reads {again[place][:4]}, not "
                                f"{read[first + place][:4]}")  # fmt: skip
        other = subject.training.order()
        if [tuple(other(own.num_examples, own.per_step, 2, step)) for step in range(steps)] == read[:steps]:
            problems.append("another seed gives the same order")
        problems += self._curriculum(subject)
        return verdict(problems, f"{_EPOCHS} epochs of {own.num_examples} examples, resumed at 3 places: the same")

    def _curriculum(self, subject: Subject) -> list[str]:
        own, ask = self.settings, subject.training.curriculum
        hard = [float(derive(0, "difficulty", index)) for index in range(own.num_examples)]
        steps = [tuple(step) for step in ask(hard, own.per_step, _EPOCHS, 1)]
        shown = Counter(index for step in steps for index in step)
        problems = []
        if shown != Counter(dict.fromkeys(range(own.num_examples), _EPOCHS)):
            most, least = max(shown.values()), min(shown[index] for index in range(own.num_examples))
            problems.append(f"under a curriculum examples are shown {least} to {most} times, not {_EPOCHS}")
        if any(len(set(step)) < len(step) for step in steps):
            problems.append("under a curriculum a step reads an example twice")
        means = [sum(hard[index] for index in step) / len(step) for step in (steps[0], steps[-1])]
        if means[0] >= means[1]:
            problems.append("under a curriculum the first step is no easier than the last")
        if [tuple(step) for step in ask(hard, own.per_step, _EPOCHS, 1)] != steps:
            problems.append("under a curriculum a resumed run reads other data")
        return problems
