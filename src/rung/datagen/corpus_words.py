"""Texts as words for comparing them, at the speed of a corpus: lower case, runs of letters and digits, as bytes.

Everything that is no ASCII counts as a letter. `rung.datagen.wording` folds more (accents, widths) and is slower.
"""

from __future__ import annotations

__all__ = ["quick_words"]

_SPACES = bytes(i if i >= 128 or chr(i).isalnum() else 32 for i in range(256))


def quick_words(text: str) -> list[bytes]:
    """The words of a text, in order."""
    return text.lower().encode("utf-8", "surrogatepass").translate(_SPACES).split()
