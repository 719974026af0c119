"""The terminal, safe from what models and files say.

Text that a model wrote may hold escape sequences (they move the cursor, set the window's title, write to the
clipboard), characters that turn the reading direction around, and words in square brackets that look like markup.
Here the first two are shown instead of obeyed, and the last are only words.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable
from typing import Any

from rich.console import Console, ConsoleOptions, RenderableType
from rich.segment import Segment

__all__ = ["SafeConsole", "visible"]

_KEPT = "\n\t"
_TURNS = "\u202a\u202b\u202c\u202d\u202e\u2066\u2067\u2068\u2069\u200e\u200f\u061c"
_UNSAFE = re.compile(rf"[\x00-\x08\x0b-\x1f\x7f-\x9f\u2028\u2029{_TURNS}]")


def visible(text: str) -> str:
    """`text` with control and direction characters as signs: escape as `␛`, others of ASCII likewise, the rest by
    their number. Line breaks and tabs stay."""
    return _UNSAFE.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    code = ord(match.group())
    if code < 0x20:
        return chr(0x2400 + code)
    return "␡" if code == 0x7F else f"<{unicodedata.name(match.group(), f'U+{code:04X}')}>"


class SafeConsole(Console):
    """rich's console, for text from anywhere: no markup in plain strings, no control characters inside text.

    rich's own control segments (cursor, colours) are no text and pass.
    """

    def __init__(self, **settings: Any) -> None:
        super().__init__(**{"markup": False, "emoji": False, **settings})

    def render(self, renderable: RenderableType, options: ConsoleOptions | None = None) -> Iterable[Segment]:
        """rich's segments with their text made visible."""
        for segment in super().render(renderable, options):
            if segment.control or not _UNSAFE.search(segment.text):
                yield segment
            else:
                yield Segment(visible(segment.text), segment.style)
