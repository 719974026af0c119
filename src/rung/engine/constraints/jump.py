"""Text that a constraint forces, as tokens that are written without asking the model for each.

What must follow may be spelled by tokens in many ways; it is written in the tokenizer's own, which is what the model
was trained on, and drawn with probability one. The last token of a forced text is left to the model: it may run on into
what follows. (The idea of jump-ahead decoding is that of SGLang, arXiv 2312.07104, which re-tokenises the whole text
instead.)
"""

from __future__ import annotations

from rung.engine.constraints.protocol import Vocabulary
from rung.records.tokenizer import Tokenizer

__all__ = ["Jump"]

_MOST_KEPT = 4096


class Jump:
    """Spells forced bytes with the tokens of one model; what it spelled before is remembered."""

    def __init__(self, tokenizer: Tokenizer, vocabulary: Vocabulary) -> None:
        self._tokenizer, self._vocabulary = tokenizer, vocabulary
        self._known: dict[bytes, tuple[int, ...]] = {}

    def tokens(self, forced: bytes) -> tuple[int, ...]:
        """Tokens whose bytes are the beginning of `forced`: as the tokenizer writes it, up to the first token that
        says something else, and without the last."""
        if forced not in self._known:
            if len(self._known) >= _MOST_KEPT:
                self._known.clear()
            self._known[forced] = tuple(self._spelled(forced))
        return self._known[forced]

    def _spelled(self, forced: bytes) -> list[int]:
        found, written = list[int](), 0
        for token in self._tokenizer.encode(forced.decode(errors="ignore"))[:-1]:
            data = self._vocabulary.tokens[token] if token < len(self._vocabulary.tokens) else None
            if not data or not forced.startswith(data, written):
                break
            found.append(token)
            written += len(data)
        return found
