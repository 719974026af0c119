"""A summary without a model: the one or two sentences of the text that say most of what the others say.

Sentences are ordered by how much of the text's other content words they hold (a small centroid method after Radev and
others 2004). What it takes is the author's own words; `summary` has a model write its own.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Sequence
from typing import ClassVar

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.instructing.asking import Ask, Means
from rung.datagen.wording import words
from rung.records.types import Document

__all__ = ["Gist"]

_SENTENCE = re.compile(r"[A-Z][^.!?\n\"\u201c\u201d]*[.!?](?=\s|$)")


class Gist:
    """Asks for what the sentences tell; holds where the text has nearly all of their content words."""

    identifies: ClassVar[bool] = True
    needs_completer: ClassVar[bool] = False
    said: ClassVar[tuple[str, ...]] = ("summary",)
    clauses: ClassVar[tuple[str, ...]] = ('that tells this: "{summary}"', 'about this: "{summary}"')
    lines: ClassVar[tuple[str, ...]] = ('What happens: "{summary}"', 'In short: "{summary}"')

    class Settings(BaseSettings):
        """How much, and how sure."""

        sentences: int = Field(2, ge=1, le=3, description="sentences of the summary")
        min_share: float = Field(0.9, gt=0, le=1, description="share of its content words that the text must have")

    EXAMPLES = (("The silly dog ran to the lake. The lake was cold. The dog swam in the cold lake.", "The cat slept."),)

    def __init__(self, settings: Settings, means: Means) -> None:
        self.settings, self._idle = settings, means.known.vocabulary.function_words

    def asks(self, documents: Sequence[Document], seed: int) -> list[Ask | None]:
        """The gist of each text; None for one with too few sentences to leave any out."""
        return [self._ask(document) for document in documents]

    def _ask(self, document: Document) -> Ask | None:
        sentences = [match.group() for match in _SENTENCE.finditer(document.text)]
        if len(sentences) <= self.settings.sentences:
            return None
        counts = Counter(self._content(document.text))
        ranked = sorted(range(len(sentences)), key=lambda n: -self._weight(sentences[n], counts))
        chosen = sorted(ranked[: self.settings.sentences])
        text = " ".join(sentences[n] for n in chosen)
        return Ask("gist", {"summary": text}, (text,)) if self._content(text) else None

    def _content(self, text: str) -> list[str]:
        return [word for word in words(text) if word not in self._idle and len(word) > 2]

    def _weight(self, sentence: str, counts: Counter[str]) -> float:
        spoken = set(self._content(sentence))
        return sum(counts[word] - 1 for word in spoken) / (3 + len(words(sentence)))

    def holds(self, ask: Ask, text: str) -> bool:
        """Whether enough of the content words are there."""
        wanted, there = set(self._content(ask.wanted[0])), set(words(text))
        return len(wanted & there) >= self.settings.min_share * len(wanted)
