"""What every family of tasks is: settings, a difficulty, and items that name the verifiers which judge their answers.

`Task.make(seed, count, split)` is the whole promise. The families that draw questions from a seed build on
`Generated`: there a question falls into the training or the held-out part by a hash of what it asks (its `key`), so
the two parts share nothing whatever seeds, settings or counts they were made with.

An item's `reference` holds `checks` (verifier name to settings, as `scoring.checks` reads them), `answer` (a perfect
reply), `form` (what kind of text that is), `wrong` (replies that look right and are not) and `key`.
"""

from __future__ import annotations

import random
from abc import ABC, abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Generic, Literal, Protocol, TypeVar

from rung.base.errors import DataError
from rung.base.seeds import derive, stream
from rung.base.settings import Field, Settings
from rung.records.contracts import Item
from rung.records.types import TestItem, record_id

__all__ = [
    "Form",
    "Generated",
    "Question",
    "Split",
    "Task",
    "TaskSettings",
    "as_test_item",
    "check_disjoint",
    "split_of",
]

Split = Literal["train", "held_out"]
Form = Literal["number", "text", "list", "exact", "code", "json"]
_ONE_HELD_OUT_IN = 4
_ATTEMPTS_PER_ITEM = 200


class TaskSettings(Settings):
    """What every generated family can be asked for; families add their own."""

    difficulty: int = Field(default=1, ge=1, le=5, description="1 is for models of 100M parameters, 5 is hard for 1B")


S = TypeVar("S", bound=TaskSettings)


class Task(Protocol):
    """A family of tasks."""

    def make(self, seed: int, count: int, split: Split = "train") -> list[Item]:
        """`count` different items of one part; the same arguments give the same items."""


@dataclass(frozen=True, slots=True)
class Question:
    """One question before it is an item.

    `key` says what is asked, whatever the wording: two wordings of one sum have one key. `wrong` are near misses.
    """

    instruction: str
    answer: str
    checks: Mapping[str, Mapping[str, Any]]
    key: str
    form: Form = "text"
    wrong: tuple[str, ...] = ()


class Generated(ABC, Generic[S]):
    """Base of the families that draw their questions; each file of `scoring/tasks` has one."""

    Settings: ClassVar[type[TaskSettings]]

    def __init__(self, settings: S) -> None:
        self.settings = settings

    @property
    def family(self) -> str:
        """The file's name: the items' type."""
        return type(self).__module__.rpartition(".")[2]

    def make(self, seed: int, count: int, split: Split = "train") -> list[Item]:
        """`count` items with different keys and instructions, all of one part.

        Raises:
            DataError: the settings allow fewer different questions than that.
        """
        found: dict[str, Item] = {}
        said: set[str] = set()
        for question in self._drawn(seed, count * _ATTEMPTS_PER_ITEM):
            if len(found) == count:
                break
            fresh = question.key not in found and question.instruction not in said
            if fresh and split_of(self.family, question.key) == split:
                found[question.key] = self._item(question)
                said.add(question.instruction)
        if len(found) < count:
            raise DataError(
                f"only {len(found)} different {split} questions in {count * _ATTEMPTS_PER_ITEM} draws, {count} wanted",
                place=f"tasks.{self.family}",
                hint="ask for fewer, or raise the difficulty",
            )
        return list(found.values())

    @abstractmethod
    def draw(self, rng: random.Random) -> Question:
        """One question, from the stream alone."""

    def _drawn(self, seed: int, attempts: int) -> Iterator[Question]:
        # One seed per draw: what a draw consumes never shifts the next.
        for index in range(attempts):
            yield self.draw(random.Random(derive(seed, "task", self.family, index)))

    def _item(self, question: Question) -> Item:
        reference = {
            "checks": question.checks,
            "answer": question.answer,
            "form": question.form,
            "wrong": [wrong for wrong in question.wrong if wrong != question.answer],
            "key": question.key,
        }
        return Item(record_id(self.family, question.key), question.instruction, self.family, reference)


def split_of(family: str, key: str) -> Split:
    """The part that a question belongs to for ever: one in four is held out."""
    folded = " ".join(key.casefold().split())
    return "held_out" if stream(0, "split", family, folded).randrange(_ONE_HELD_OUT_IN) == 0 else "train"


def check_disjoint(train: Sequence[Item], held_out: Sequence[Item]) -> None:
    """Refuse held-out items that equal a training item, by what they ask or by their words.

    Raises:
        DataError: naming the first such item.
    """
    seen = {name for item in train for name in _names(item)}
    for item in held_out:
        if shared := [name for name in _names(item) if name in seen]:
            raise DataError(f"held-out item '{item.id}' is a training item too: {shared[0][1]!r:.80}")


def as_test_item(item: Item) -> TestItem:
    """A task's item as suites and results store it."""
    reference = item.reference
    return TestItem(item.id, item.instruction, item.type, item.type, reference["checks"], reference["answer"])


def _names(item: Item) -> list[tuple[str, str]]:
    words = " ".join(item.instruction.casefold().split())
    return [("words", words), (f"key of {item.type}", str(item.reference.get("key", words)))]
