"""Words that the text uses: those it was written for where these are known, else words of the list that stand in it.

Of the latter those come first that few of the other texts have: "day" and "big" tell no story from another.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, ClassVar

from rung.base.seeds import stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.instructing.asking import Ask, Means
from rung.datagen.stories.inflect import forms, occurring
from rung.datagen.stories.prompts import joined
from rung.datagen.wording import words
from rung.records.types import Document

__all__ = ["Words"]


class Words:
    """Asks for `count` words; holds where every one of them occurs, in whatever form."""

    identifies: ClassVar[bool] = True
    needs_completer: ClassVar[bool] = False
    said: ClassVar[tuple[str, ...]] = ("words",)
    clauses: ClassVar[tuple[str, ...]] = ("that uses the words {words}", "with the words {words} in it")
    lines: ClassVar[tuple[str, ...]] = ("Words to use: {words}.", "It has these words: {words}.")

    class Settings(BaseSettings):
        """How many."""

        count: int = Field(3, ge=1, le=10, description="words asked for")

    EXAMPLES = (("The silly dog ran home.", "The cat slept."),)

    def __init__(self, settings: Settings, means: Means) -> None:
        self.settings, self._irregular = settings, means.known.vocabulary.irregular
        self._word_of: Mapping[str, str] = {
            form: word.text for word in means.known.vocabulary.words for form in forms(word.text, self._irregular)
        }

    def asks(self, documents: Sequence[Document], seed: int) -> list[Ask | None]:
        """Words of each text that are rare among these texts; None for one with fewer than `count` of the list."""
        used = [sorted({self._word_of[word] for word in words(d.text) if word in self._word_of}) for d in documents]
        counts = Counter(word for one in used for word in one)
        return [self._ask(document, there, counts, seed) for document, there in zip(documents, used, strict=True)]

    def _ask(self, document: Document, there: Sequence[str], counts: Counter[str], seed: int) -> Ask | None:
        random = stream(seed, "words", document.id)
        written = [word for word in self._written_for(document.meta) if word in there]
        rest = [word for word in sorted(there, key=lambda word: (counts[word], random.random())) if word not in written]
        rare = rest[: max(len(rest) // 2, self.settings.count)]
        chosen = tuple([*written, *random.sample(rare, len(rare))][: self.settings.count])
        if len(chosen) < self.settings.count:
            return None
        return Ask("words", {"words": joined([f'"{word}"' for word in chosen])}, chosen)

    @staticmethod
    def _written_for(meta: Mapping[str, Any]) -> tuple[str, ...]:
        said = meta.get("words", ())
        return tuple(map(str, said)) if isinstance(said, (list, tuple)) else ()

    def holds(self, ask: Ask, text: str) -> bool:
        """Whether all of them occur."""
        return occurring(ask.wanted, text, self._irregular) == frozenset(ask.wanted)
