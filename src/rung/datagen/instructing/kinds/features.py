"""Features that show in the text, by the evidence of words; they fit many texts, so they are never asked alone."""

from __future__ import annotations

from collections.abc import Sequence
from typing import ClassVar

from rung.base.seeds import stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.instructing.asking import Ask, Means
from rung.datagen.stories.prompts import joined
from rung.records.types import Document

__all__ = ["ShownFeatures"]


class ShownFeatures:
    """Asks for up to `count` features; holds where every one of them shows."""

    identifies: ClassVar[bool] = False
    needs_completer: ClassVar[bool] = False
    said: ClassVar[tuple[str, ...]] = ("features",)
    clauses: ClassVar[tuple[str, ...]] = ("that has {features}", "with {features}")
    lines: ClassVar[tuple[str, ...]] = ("It has {features}.", "Features: {features}.")

    class Settings(BaseSettings):
        """How many."""

        count: int = Field(2, ge=1, le=6, description="most features asked for")

    EXAMPLES = (('"Come here," said the dog. There was a problem.', "The cat slept."),)

    def __init__(self, settings: Settings, means: Means) -> None:
        self.settings, self._features = settings, means.known.features

    def asks(self, documents: Sequence[Document], seed: int) -> list[Ask | None]:
        """Features of each text that go together; None where none shows."""
        return [self._ask(document, seed) for document in documents]

    def _ask(self, document: Document, seed: int) -> Ask | None:
        random = stream(seed, "features", document.id)
        shown = self._features.shown(document.text)
        chosen: list[str] = []
        for name in random.sample(shown, len(shown)):
            if len(chosen) < self.settings.count and self._features.conflict([*chosen, name]) is None:
                chosen.append(name)
        if not chosen:
            return None
        return Ask("features", {"features": joined([self._features[name].asked for name in chosen])}, tuple(chosen))

    def holds(self, ask: Ask, text: str) -> bool:
        """Whether all of them show."""
        return all(self._features[name].in_text(text) for name in ask.wanted)
