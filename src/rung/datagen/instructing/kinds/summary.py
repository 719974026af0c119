"""A summary that a model writes: one or two sentences, in the words of the text, checked before it is used.

A small model makes things up; a summary whose content words are not nearly all in the text is left out, and so is one
that is too long or is a copy of the text's beginning. What is left still says nothing about whether it is a good one.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import ClassVar

from rung.base.errors import DataError
from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.instructing.asking import Ask, Means
from rung.datagen.templates import read_yaml, template
from rung.datagen.wording import words
from rung.records.contracts import Completion, Sampling
from rung.records.types import Document, Message

__all__ = ["Summary"]

_TEMPLATE = Path(__file__).with_name("summary.yaml")
_SENTENCE = re.compile(r"[^.!?\n]*\w[^.!?\n]*[.!?]+[\"\u201d]?")


class Summary:
    """Asks for what a completer's summary says; holds where the text has enough of its content words."""

    identifies: ClassVar[bool] = True
    needs_completer: ClassVar[bool] = True
    said: ClassVar[tuple[str, ...]] = ("summary",)
    clauses: ClassVar[tuple[str, ...]] = ('that tells this: "{summary}"', 'with this plot: "{summary}"')
    lines: ClassVar[tuple[str, ...]] = ('Plot: "{summary}"', 'Summary: "{summary}"')

    class Settings(BaseSettings):
        """How it is written and what it must be."""

        max_sentences: int = Field(2, ge=1, le=5, description="sentences that are taken")
        max_words: int = Field(40, ge=5, description="most words of a summary")
        min_share: float = Field(0.7, gt=0, le=1, description="share of its content words that the text must have")
        temperature: float = Field(0.3, ge=0, le=2, description="of the sampling")
        max_new_tokens: int = Field(60, ge=1, description="limit of one summary")

    def __init__(self, settings: Settings, means: Means) -> None:
        self.settings, self._completer, self._asking = settings, means.completer, means.asking
        self._idle = means.known.vocabulary.function_words
        self._template = template(_TEMPLATE.name, read_yaml(_TEMPLATE, "summaries").get("ask"), ("text",))

    def asks(self, documents: Sequence[Document], seed: int) -> list[Ask | None]:
        """A summary of each text; None where what came back is none.

        Raises:
            DataError: there is no completer.
        """
        if self._completer is None:
            raise DataError(
                "a summary needs a model to write it", place="summary", hint="name one: model, or completer"
            )
        own = self.settings
        sampling = Sampling(temperature=own.temperature, top_p=0.9, max_new_tokens=own.max_new_tokens)
        requests = [
            self._asking.request(
                f"summary-{document.id}",
                (Message("user", self._template.fill(text=document.text)),),
                sampling,
                derive(seed, "summary", document.id),
            )
            for document in documents
        ]
        rows = zip(documents, self._completer.complete(requests), strict=True)
        return [self._ask(document, completion) for document, completion in rows]

    def _ask(self, document: Document, completion: Completion) -> Ask | None:
        sentences = [match.group().strip() for match in _SENTENCE.finditer(completion.text)]
        text = " ".join(sentences[: self.settings.max_sentences]).replace('"', "'")
        ask = Ask("summary", {"summary": text}, (text,))
        fit = 3 <= len(words(text)) <= self.settings.max_words and not text.endswith(":")
        copied = document.text.startswith(text)
        return ask if fit and not copied and self.holds(ask, document.text) else None

    def holds(self, ask: Ask, text: str) -> bool:
        """Whether enough of the content words are there."""
        wanted = {word for word in words(ask.wanted[0]) if word not in self._idle and len(word) > 2}
        return bool(wanted) and len(wanted & set(words(text))) >= self.settings.min_share * len(wanted)
