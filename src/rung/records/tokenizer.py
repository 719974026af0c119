"""A tokenizer without surprises: never a template, never a special token that was not asked for.

Wraps a `tokenizers.Tokenizer` (the file `tokenizer.json`), so no torch and no transformers is needed to encode.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import tokenizers

from rung.base.errors import ModelError

__all__ = ["Tokenizer"]


@dataclass(frozen=True)
class Tokenizer:
    """Text <-> ids.

    `start_ids` are what the model expects in front of every document (Gemma's BOS), put there by whoever builds a
    model input, once; `end_ids` are the tokens that end a generation; `pad_id` fills and is never scored.
    """

    inner: tokenizers.Tokenizer
    start_ids: tuple[int, ...] = ()
    end_ids: tuple[int, ...] = ()
    pad_id: int = 0
    template_ids: frozenset[int] = frozenset()

    @staticmethod
    def load(
        path: Path,
        start_ids: Sequence[int] = (),
        end_ids: Sequence[int] = (),
        pad_id: int = 0,
        template_ids: Sequence[int] = (),
    ) -> Tokenizer:
        """Read a `tokenizer.json`.

        Raises:
            ModelError: it is missing or not a tokenizer.
        """
        try:
            inner = tokenizers.Tokenizer.from_file(str(path))
        except Exception as error:  # the Rust side raises a bare Exception for every fault
            raise ModelError(f"cannot read a tokenizer: {error}", place=str(path)) from error
        return Tokenizer(inner, tuple(start_ids), tuple(end_ids), pad_id, frozenset(template_ids))

    def encode(self, text: str) -> list[int]:
        """Ids of the text alone."""
        return list(self.inner.encode(text, add_special_tokens=False).ids)

    def encode_batch(self, texts: Sequence[str]) -> list[list[int]]:
        """`encode` for many texts, in parallel."""
        return [list(e.ids) for e in self.inner.encode_batch(list(texts), add_special_tokens=False)]

    def document(self, text: str) -> list[int]:
        """Ids of a text that starts a model input: start token(s) first."""
        return [*self.start_ids, *self.encode(text)]

    def decode(self, ids: Sequence[int]) -> str:
        """Text of the ids, special tokens shown as their text."""
        return str(self.inner.decode(list(ids), skip_special_tokens=False))

    @property
    def vocabulary_size(self) -> int:
        """Entries, added tokens included."""
        return int(self.inner.get_vocab_size(with_added_tokens=True))
