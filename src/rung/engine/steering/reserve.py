"""`<clarify>`: one token id per model that means "I must ask", and that no text is made of.

An id is looked for in this order: an entry that is already called `<clarify>`; the last of the entries that the
tokenizer's makers left unused (`<unused98>`, `<|reserved_special_token_247|>`: the last, because users take the first);
the last row of the output beyond the tokenizer's entries, where a network is wider. Where there is none of these (the
SmolLM2 family), nothing is guessed: name a token that the data never uses, or train a row of its own.

A model draws the token at the right moments only after it was trained to.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from rung.base.errors import SettingsError
from rung.records.tokenizer import Tokenizer

__all__ = ["CLARIFY", "Reserved", "reserved"]

CLARIFY = "<clarify>"
_UNUSED = re.compile(r"[<\[]\|?(?:unused|reserved_special_token|reserved|extra)_?(?:token_?)?(\d+)\|?[>\]]")

How = Literal["own", "unused", "beyond", "named"]


@dataclass(frozen=True, slots=True)
class Reserved:
    """The id, how the tokenizer spells it (empty beyond its entries), and where it comes from."""

    id: int
    text: str
    how: How


def reserved(tokenizer: Tokenizer, width: int, name: str = "") -> Reserved:
    """The model's `<clarify>`.

    Args:
        tokenizer: the model's own.
        width: of its logits.
        name: the spelling of a token to use instead, for a model without a spare one.

    Raises:
        SettingsError: there is no spare id, or the named one is unknown or has a meaning already.
    """
    entries = tokenizer.inner.get_vocab(with_added_tokens=True)
    if name:
        return Reserved(_named(tokenizer, entries, name), name, "named")
    if CLARIFY in entries:
        return Reserved(entries[CLARIFY], CLARIFY, "own")
    unused = [(token, text) for text, token in entries.items() if _UNUSED.fullmatch(text) and token < width]
    if unused:
        return Reserved(*max(unused), "unused")
    if width - 1 > max(entries.values()):
        return Reserved(width - 1, "", "beyond")
    raise SettingsError(
        f"none of the {width} token ids is spare",
        place="clarify",
        hint="name a token that your data never uses, or add a row to the embedding and train it",
    )


def _named(tokenizer: Tokenizer, entries: dict[str, int], name: str) -> int:
    place = f"clarify '{name}'"
    if name not in entries:
        raise SettingsError("the tokenizer has no such entry", place=place, hint="write it as the tokenizer does")
    token = entries[name]
    if token in {*tokenizer.start_ids, *tokenizer.end_ids, tokenizer.pad_id, *tokenizer.template_ids}:
        raise SettingsError(f"token {token} has a meaning already", place=place, hint="name one that is never used")
    return token
