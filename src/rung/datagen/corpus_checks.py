"""What may become a document: a text that is one, of a length, licence and language that were asked for.

Reasons of drops: "missing_field", "not_text", "empty", "over_long", "licence", "language", "contaminated"; those of
reading are in `corpus_reading`, those of repeats in `corpus_build`.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Literal

from rung.base.settings import Field, Settings
from rung.datagen.corpus_overlap import Overlap
from rung.datagen.corpus_reading import excerpt
from rung.datagen.corpus_source import Found
from rung.records.types import Document, Drop, record_id

__all__ = ["BROKEN", "CheckSettings", "documents_of"]

BROKEN = ("broken_utf8", "broken_json", "broken_csv", "missing_field", "not_text")


class CheckSettings(Settings):
    """Which texts are wanted. Licences and languages are compared without regard to case."""

    min_chars: int = Field(1, ge=1, description="a shorter text counts as empty, what is blank always does")
    max_chars: int = Field(1 << 20, ge=16, description="characters of one document")
    over_long: Literal["split", "cut", "drop"] = Field(
        "split", description="a longer text: becomes several documents, loses its end, or is left out"
    )
    licences: tuple[str, ...] = Field((), description="licences that are allowed; none: all, unknown ones too")
    languages: tuple[str, ...] = Field((), description="languages that are wanted; none: all")


def documents_of(found: Found, source: str, settings: CheckSettings, overlap: Overlap) -> Iterator[Document | Drop]:
    """The document that a text becomes, or several, or the reason why it becomes none."""
    if reason := _unwanted(found, settings):
        yield _drop(found, reason)
        return
    for number, text in enumerate(_parts(found.text, settings)):
        place = f"{found.place}#{number}" if number else found.place
        if hit := overlap.find(text):
            detail = {"benchmark": hit.benchmark, "item": hit.item, "words": hit.words}
            yield Drop(place, excerpt(text), "corpus", "contaminated", detail=detail)
            continue
        meta = {**found.meta, "place": place}
        yield Document(record_id(text), text, source, found.licence, found.language, meta)
    if settings.over_long == "cut" and len(found.text) > settings.max_chars:
        yield _drop(found, "end_cut")


def _unwanted(found: Found, settings: CheckSettings) -> str:
    text = found.text
    if text is None:
        return "missing_field"
    if not isinstance(text, str):
        return "not_text"
    if len(text) < settings.min_chars or not text.strip():
        return "empty"
    if not text.isascii() and not _encodes(text):
        return "broken_utf8"
    if settings.licences and found.licence.lower() not in {name.lower() for name in settings.licences}:
        return "licence"
    if settings.languages and found.language.lower() not in {name.lower() for name in settings.languages}:
        return "language"
    return "over_long" if settings.over_long == "drop" and len(text) > settings.max_chars else ""


def _parts(text: str, settings: CheckSettings) -> Iterator[str]:
    """The text, or its first part, or parts that end at the last line's end that fits."""
    limit, start = settings.max_chars, 0
    if settings.over_long == "cut":
        yield text[:limit]
        return
    while len(text) - start > limit:
        end = text.rfind("\n", start, start + limit) + 1
        end = end if end > start else start + limit
        yield text[start:end]
        start = end
    yield text[start:]


def _encodes(text: str) -> bool:
    """Whether it is text: JSON may spell half of a surrogate pair, which no encoding has."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True


def _drop(found: Found, reason: str) -> Drop:
    text = found.text if isinstance(found.text, str) else repr(found.text)
    return Drop(found.place, excerpt(text.encode("utf-8", "replace")), "corpus", reason)
