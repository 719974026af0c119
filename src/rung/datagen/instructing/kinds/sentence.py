"""A sentence of the text, word for word."""

from __future__ import annotations

import re
from collections.abc import Sequence
from typing import ClassVar

from rung.base.seeds import stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.instructing.asking import Ask, Means
from rung.datagen.wording import fold, words
from rung.records.types import Document

__all__ = ["Sentence"]

_SENTENCE = re.compile(r"[A-Z][^.!?\n\"\u201c\u201d]*[.!?](?=\s|$)")


class Sentence:
    """Asks for one sentence without speech in it; holds where it stands in the text, case and marks aside."""

    identifies: ClassVar[bool] = True
    needs_completer: ClassVar[bool] = False
    said: ClassVar[tuple[str, ...]] = ("sentence",)
    clauses: ClassVar[tuple[str, ...]] = ('in which this sentence stands: "{sentence}"', 'that says: "{sentence}"')
    lines: ClassVar[tuple[str, ...]] = ('A sentence of it: "{sentence}"', 'It has this sentence: "{sentence}"')

    class Settings(BaseSettings):
        """How long it may be."""

        min_words: int = Field(5, ge=1, description="fewest words of the sentence")
        max_words: int = Field(25, ge=2, description="most words of the sentence")

    EXAMPLES = (("One day the silly dog ran home to his mother. He was glad.", "The cat slept."),)

    def __init__(self, settings: Settings, means: Means) -> None:
        self.settings = settings

    def asks(self, documents: Sequence[Document], seed: int) -> list[Ask | None]:
        """A sentence of each text; None where none has the right length."""
        return [self._ask(document, seed) for document in documents]

    def _ask(self, document: Document, seed: int) -> Ask | None:
        own = self.settings
        found = [match.group() for match in _SENTENCE.finditer(document.text)]
        fit = [sentence for sentence in found if own.min_words <= len(words(sentence)) <= own.max_words]
        if not fit:
            return None
        chosen = stream(seed, "sentence", document.id).choice(fit)
        return Ask("sentence", {"sentence": chosen}, (chosen,))

    def holds(self, ask: Ask, text: str) -> bool:
        """Whether the sentence is in the text."""
        return f" {fold(ask.wanted[0])} " in f" {fold(text)} "
