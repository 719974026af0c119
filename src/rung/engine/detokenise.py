"""Token ids to text as they come: characters whose bytes are spread over several tokens wait until they are whole."""

from __future__ import annotations

from collections.abc import Sequence

from rung.records.tokenizer import Tokenizer

__all__ = ["Detokeniser"]

_UNFINISHED = "\ufffd"  # what decoders show for bytes that are no character (yet)
_LEAD = 8  # prompt tokens that give the first new token its context (leading spaces depend on it)


class Detokeniser:
    """Text that follows a prompt, piece by piece. `text` is everything given out so far.

    Decoding is not a sum over tokens (leading spaces, byte tokens), so each piece is the difference between two
    decodings of a short tail.
    """

    def __init__(self, tokenizer: Tokenizer, prompt_ids: Sequence[int]) -> None:
        self._tokenizer, self.text = tokenizer, ""
        self._tail = list(prompt_ids[-_LEAD:])
        self._given = tokenizer.decode(self._tail)  # the part of the tail's text that is given out already
        self._num_given = len(self._tail)

    def add(self, token_id: int) -> str:
        """Take one token; the new text, empty while a character is unfinished."""
        self._tail.append(token_id)
        whole = self._tokenizer.decode(self._tail)
        if len(whole) <= len(self._given) or whole.endswith(_UNFINISHED):
            return ""
        return self._give(whole)

    def flush(self) -> str:
        """What is still held back, unfinished characters shown as replacement marks."""
        return self._give(self._tokenizer.decode(self._tail))

    def _give(self, whole: str) -> str:
        piece = whole[len(self._given) :]
        self._tail = self._tail[self._num_given :] or self._tail
        self._given, self._num_given = self._tokenizer.decode(self._tail), len(self._tail)
        self.text += piece
        return piece
