"""The bytes of every token, exactly as they come out of a tokenizer's decoder, for the two kinds that models use:
byte-level BPE (every byte is a printable letter) and SentencePiece (spaces as `▁`, odd bytes as `<0xNN>`)."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from typing import Any

from rung.base.errors import ModelError
from rung.engine.constraints.protocol import Vocabulary
from rung.records.tokenizer import Tokenizer

__all__ = ["read_vocabulary"]

_BYTE = re.compile(r"<0x([0-9A-Fa-f]{2})>")
_SPACE = "▁"
_NEUTRAL = {"ByteFallback", "Fuse", "Strip"}  # Strip acts at the very start alone, and an answer follows a prompt


def read_vocabulary(tokenizer: Tokenizer, width: int) -> Vocabulary:
    """Bytes by token id, for logits of `width`. Special, added and template tokens have none, as have ids beyond the
    tokenizer's entries.

    Raises:
        ModelError: a tokenizer whose decoder this does not know.
    """
    to_bytes = _speller(tokenizer)
    tokens: list[bytes | None] = [None] * width
    without = {*tokenizer.inner.get_added_tokens_decoder(), *tokenizer.template_ids}
    without |= {*tokenizer.start_ids, *tokenizer.end_ids}
    for piece, token in tokenizer.inner.get_vocab(with_added_tokens=False).items():
        if token < width and token not in without:
            tokens[token] = to_bytes(piece) or None
    return Vocabulary(tuple(tokens), tuple(i for i in tokenizer.end_ids if i < width))


def _speller(tokenizer: Tokenizer) -> Callable[[str], bytes | None]:
    decoder = tokenizer.inner.decoder
    steps = list(_steps(json.loads(decoder.__getstate__()))) if decoder is not None else []
    kinds = {step["type"] for step in steps}
    if kinds == {"ByteLevel"}:
        return _byte_level
    replaces = [step for step in steps if step["type"] == "Replace"]
    spaces = all(r["content"] == " " and r["pattern"] == {"String": _SPACE} for r in replaces)
    if (replaces or "Metaspace" in kinds) and spaces and not kinds - _NEUTRAL - {"Replace", "Metaspace"}:
        return _sentence_piece if "ByteFallback" in kinds else _spaced
    raise ModelError(
        f"constraints cannot tell the bytes of tokens under the decoder {sorted(kinds)}",
        place="tokenizer",
        hint="byte-level BPE and SentencePiece decoders are known",
    )


def _steps(state: dict[str, Any]) -> Iterator[dict[str, Any]]:
    if state["type"] == "Sequence":
        for inner in state["decoders"]:
            yield from _steps(inner)
    else:
        yield state


def _letters() -> dict[str, int]:
    """Byte-level BPE's letters: printable bytes stand for themselves, the others for U+0100 and up (Radford 2019)."""
    plain = [*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)]
    others = [byte for byte in range(256) if byte not in set(plain)]
    return {chr(b): b for b in plain} | {chr(0x100 + place): b for place, b in enumerate(others)}


_LETTERS = _letters()


def _byte_level(piece: str) -> bytes | None:
    found = [_LETTERS.get(letter) for letter in piece]
    return bytes(b for b in found if b is not None) if None not in found else None


def _spaced(piece: str) -> bytes:
    return piece.replace(_SPACE, " ").encode()


def _sentence_piece(piece: str) -> bytes:
    byte = _BYTE.fullmatch(piece)
    return bytes([int(byte[1], 16)]) if byte else _spaced(piece)
