"""Encoding whole corpora: the tokenizer's ids, several times as fast, and never a special token for what a text says.

A byte-pair tokenizer works on pieces, and a corpus has few different ones. Where a tokenizer cuts by a rule of
`rung.records.pieces`, texts of ASCII are cut by Python's twin of that rule and each piece is looked up in a table; the
tokenizer is asked once for each new piece. Any other text, and any other tokenizer, goes to the tokenizer as a whole.

Legend: N token of a batch.
"""

from __future__ import annotations

import itertools
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import tokenizers
from numpy.typing import NDArray

from rung.records.pieces import RULES
from rung.records.tokenizer import Tokenizer

__all__ = ["Encoded", "Encoder"]

_MOST_PIECES = 200_000


@dataclass(frozen=True)
class Encoded:
    """The ids of several texts, one after another; text i has `ids[starts[i] : starts[i + 1]]`."""

    ids: NDArray[np.uint32]
    starts: NDArray[np.int64]

    def of(self, index: int) -> NDArray[np.uint32]:
        """The ids of one text."""
        return self.ids[self.starts[index] : self.starts[index + 1]]


class Encoder:
    """Encodes batches of texts with one tokenizer. The table of pieces is bounded and begun anew when it is full."""

    def __init__(self, tokenizer: Tokenizer, most_pieces: int = _MOST_PIECES) -> None:
        self._inner, self._most = _plain(tokenizer.inner), most_pieces
        self._ascii = _ascii_rule(self._inner)
        self._place: dict[str, int] = {}
        self._table, self._starts = _empty_table()

    def encode(self, texts: Sequence[str]) -> Encoded:
        """The ids of every text, in order; nothing is put in front or behind. Memory grows with the batch."""
        narrow = [i for i, text in enumerate(texts) if self._ascii is not None and text.isascii()]
        cut = set(narrow)
        wide = [i for i in range(len(texts)) if i not in cut]
        found = dict(zip(wide, self._whole([texts[i] for i in wide]), strict=True))
        found |= dict(zip(narrow, self._by_pieces([texts[i] for i in narrow]), strict=True))
        return _joined([found[i] for i in range(len(texts))])

    def _whole(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        encoded = self._inner.encode_batch_fast(list(texts), add_special_tokens=False) if texts else []
        return [np.asarray(one.ids, np.uint32) for one in encoded]

    def _by_pieces(self, texts: Sequence[str]) -> list[NDArray[np.uint32]]:
        if self._ascii is None or not texts:
            return []
        cut = [self._ascii.findall(text) for text in texts]
        pieces = list(itertools.chain.from_iterable(cut))
        places = list(map(self._place.get, pieces))
        if None in places:
            self._learn(pieces)
            places = list(map(self._place.get, pieces))
        ids, ends = _gathered(self._table, self._starts, np.asarray(places, np.int64))
        last = np.cumsum([len(own) for own in cut[:-1]], dtype=np.int64)
        return np.split(ids, np.concatenate([[0], ends])[last])

    def _learn(self, pieces: Sequence[str]) -> None:
        """Ask the tokenizer for the pieces that are not in the table."""
        new = [piece for piece in dict.fromkeys(pieces) if piece not in self._place]
        if len(self._place) + len(new) > self._most:
            self._place, (self._table, self._starts) = {}, _empty_table()
            new = list(dict.fromkeys(pieces))
        added = self._whole(new)
        for piece in new:
            self._place[piece] = len(self._place)
        self._table = np.concatenate([self._table, *added])
        ends = self._starts[-1] + np.cumsum([len(ids) for ids in added])
        self._starts = np.concatenate([self._starts, ends])


def _empty_table() -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    return np.zeros(0, np.uint32), np.zeros(1, np.int64)


def _gathered(
    table: NDArray[np.uint32], starts: NDArray[np.int64], at: NDArray[np.int64]
) -> tuple[NDArray[np.uint32], NDArray[np.int64]]:
    """Entries `at` of a table of runs, laid end to end, and where each of them ends."""
    lengths = starts[at + 1] - starts[at]
    ends = np.cumsum(lengths)
    first = np.repeat(starts[at] - (ends - lengths), lengths)
    return table[first + np.arange(len(first))], ends


def _joined(parts: Sequence[NDArray[np.uint32]]) -> Encoded:
    starts = np.concatenate([[0], np.cumsum([len(part) for part in parts], dtype=np.int64)])
    return Encoded(np.concatenate([np.zeros(0, np.uint32), *parts]), starts.astype(np.int64))


def _plain(inner: tokenizers.Tokenizer) -> tokenizers.Tokenizer:
    """The same tokenizer, to which a special token's name in a text is text like any other."""
    copy = tokenizers.Tokenizer.from_str(inner.to_str())
    copy.encode_special_tokens = True
    return copy


def _ascii_rule(inner: tokenizers.Tokenizer) -> re.Pattern[str] | None:
    """Python's twin of the rule by which a tokenizer cuts, None when it cuts by another one or changes texts first."""
    values = json.loads(inner.to_str())
    cutting = values["pre_tokenizer"] or {}
    parts = cutting.get("pretokenizers", [])
    if values["normalizer"] is not None or values["model"]["type"] != "BPE" or len(parts) != 2:
        return None
    split, level = parts
    is_plain = split.get("behavior") == "Isolated" and not split.get("invert") and level["type"] == "ByteLevel"
    if not is_plain or level.get("use_regex") or level.get("add_prefix_space"):
        return None
    pattern = split.get("pattern", {}).get("Regex")
    return next((rule.ascii for rule in RULES.values() if rule.pattern == pattern), None)
