"""Stories that a model in question tells: from openings that are fixed, and from requests that it never saw.

What can be counted is counted, in place of grades that a small judge would make up: faults that the corpus's own
validators find, whether the story ends, whether it keeps to whom it began with, which words of a request it uses, how
much of it was not in the corpus, and how well another model foresees it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.fingerprint import content_hash
from rung.datagen.findings import apply_filters
from rung.datagen.stories.inflect import occurring
from rung.datagen.stories.judging import Known, Validators
from rung.datagen.templates import read_yaml
from rung.datagen.wording import words
from rung.records.types import Document, Story, record_id

__all__ = ["OPENINGS", "Asked", "Runs", "Told", "fault_of", "load_openings"]

OPENINGS = Path(__file__).parent / "openings.yaml"
_RUN = 4  # words


@dataclass(frozen=True, slots=True)
class Asked:
    """One prompt: an opening with its hero, or a request with its words. `prompt` is what the model reads, `begun` the
    part of it that belongs to the story."""

    id: str
    prompt: str
    begun: str = ""
    hero: str = ""
    words: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Told:
    """One story, whole. `unseen` is the share of the runs of four words after the opening that no text of the corpus
    has (-1: not looked at); `bits` what another model needs for what was written, over its `num_bytes` bytes."""

    condition: str
    asked: str
    hero: str
    words: tuple[str, ...]
    text: str
    finish_reason: str
    unseen: float = -1.0
    bits: float = 0.0
    num_bytes: int = 0

    def keeps_to_hero(self, begun: str) -> bool:
        """Whether the hero comes up again after the opening."""
        return _names(self.hero, self.text[len(begun) :])

    def used(self, known: Known) -> int:
        """How many of the words asked for occur."""
        return len(occurring(self.words, self.text, known.vocabulary.irregular))

    def record(self, number: int) -> Document:
        """As a record; `number` tells copies apart."""
        meta = {name: value for name, value in asdict(self).items() if name != "text"}
        return Document(record_id("told", self.condition, self.asked, number), self.text, self.condition, meta=meta)

    @staticmethod
    def of(record: Document) -> Told:
        """What `record` made."""
        meta: dict[str, Any] = dict(record.meta)
        return Told(**{**meta, "words": tuple(meta["words"])}, text=record.text)


class Runs:
    """The runs of four words of a corpus."""

    def __init__(self, texts: Iterable[str]) -> None:
        self._seen = {run for text in texts for run in _runs(text)}

    def unseen(self, text: str) -> float:
        """The share of a text's runs that are not among them; -1.0 for one without any."""
        runs = _runs(text)
        return sum(run not in self._seen for run in runs) / len(runs) if runs else -1.0


def _names(hero: str, text: str) -> bool:
    """Whether some word is the hero, or the hero's."""
    return any(word.startswith(hero.lower()) for word in words(text))


def _runs(text: str) -> list[tuple[str, ...]]:
    spoken = words(text)
    return [tuple(spoken[n : n + _RUN]) for n in range(len(spoken) - _RUN + 1)]


def fault_of(told: Sequence[Told], judges: Validators) -> list[str]:
    """What the first validator that finds something calls it, "" for a story without a fault."""
    stories = [_story(one, number) for number, one in enumerate(told)]
    found = {drop.id: f"{drop.part}: {drop.reason}" for drop in apply_filters(judges, stories).dropped}
    return [found.get(story.id, "") for story in stories]


def _story(told: Told, number: int) -> Story:
    return Story(
        id=str(number), prompt_id=told.asked, number=number, text=told.text.strip(), words=told.words, features=(),
        level=1, template="", template_version="", strategy=told.condition, messages=(), seed=0, temperature=0.0,
        raw_text=told.text, finish_reason=told.finish_reason, num_tokens=0,
    )  # fmt: skip


def load_openings(path: Path = OPENINGS) -> list[Asked]:
    """The openings of a file.

    Raises:
        DataError: unreadable; none; one without a text, or whose hero is not in it.
    """
    rows = read_yaml(path, "openings").get("openings")
    if not isinstance(rows, list) or not rows:
        raise DataError("there are no openings", place=path.name)
    found = []
    for number, row in enumerate(rows, 1):
        fine = isinstance(row, Mapping) and set(row) == {"hero", "text"}
        text, hero = (str(row["text"]).strip(), str(row["hero"])) if fine else ("", "")
        if not text or not hero or not _names(hero, text):
            raise DataError("an opening has a text and a hero who is in it", place=f"{path.name}: opening {number}")
        found.append(Asked(f"opening {content_hash(text)[:8]}", text, begun=text, hero=hero))
    return found
