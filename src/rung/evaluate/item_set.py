"""What every suite of test items rests on: reading them, telling repeats, choosing a balanced share, finding overlap.

Held out means held out: `overlap` compares the items with whatever a model was or will be trained or prompted with.
"""

from __future__ import annotations

import json
import re
import unicodedata
from collections import Counter, defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

from rung.base.errors import DataError, SettingsError
from rung.base.fingerprint import content_hash
from rung.base.seeds import stream
from rung.base.turns import take_turns
from rung.records.types import TestItem, from_plain

__all__ = ["Overlap", "check_items", "choose", "fold", "overlap", "read_items", "version_of"]

_STOP_WORDS = frozenset({"a", "an", "the", "of", "to", "in", "is", "are", "do", "does", "please", "me", "this", "that"})
_NGRAM = 8
_OPERATOR = re.compile(r"(?<=\d)\s*([-+*/x\u00d7\u00f7\u2212])\s*(?=\d)", re.I)
_SPOKEN = {"-": "minus", "\u2212": "minus", "+": "plus", "*": "times", "x": "times", "\u00d7": "times"}
_SPOKEN |= {"/": "divided by", "\u00f7": "divided by"}


@dataclass(frozen=True, slots=True)
class Overlap:
    """A text that an item shares too much with.

    `kind`: `exact` (same characters), `folded` (same but for case, accents, punctuation, spaces), `contained` (the
    whole folded instruction of four words or more stands inside the text), `same_words` (the same content words in
    another order), `ngram` (`share` of the instruction's 8-word runs occur in the text).
    """

    item_id: str
    text_index: int
    kind: str
    share: float
    text: str


def fold(text: str) -> str:
    """Case, accents, punctuation and spacing removed: two spellings of one instruction fold to one text.

    Operators between numbers become words, so that 3 + 4 and 3 - 4 stay two things.
    """
    spoken = _OPERATOR.sub(lambda match: f" {_SPOKEN[match.group(1).lower()]} ", text)
    decomposed = unicodedata.normalize("NFKD", spoken).casefold()
    kept = "".join(c if c.isalnum() else " " for c in decomposed if not unicodedata.combining(c) and c not in "'\u2019")
    return " ".join(kept.split())


def read_items(path: Path) -> list[TestItem]:
    """The items of a JSON-lines file.

    Raises:
        DataError: a line that is no item (named), or a set that `check_items` refuses.
    """
    items = []
    for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
        if not line.strip():
            continue
        place = f"{path.name}:{number}"
        try:
            values = json.loads(line)
        except json.JSONDecodeError as error:
            raise DataError(f"not JSON: {error.msg}", place=place) from error
        items.append(from_plain(TestItem, values, place))
    check_items(items)
    return items


def check_items(items: Sequence[TestItem]) -> None:
    """Refuse a set with repeated ids or instructions, near-duplicates, or an item without checks.

    Near-duplicates are instructions with the same content words (numbers and quoted text count), in whatever order.

    Raises:
        DataError: naming the two items.
    """
    seen: dict[tuple[str, object], str] = {}
    for item in items:
        if not item.checks:
            raise DataError(f"item '{item.id}' has no checks", hint="an item that cannot be checked is no test")
        keys = {"id": item.id, "instruction": fold(item.instruction), "content words": _content(item.instruction)}
        for name, key in keys.items():
            if other := seen.get((name, key)):
                raise DataError(f"items '{other}' and '{item.id}' have the same {name}: {item.instruction!r:.80}")
            seen[name, key] = item.id


def version_of(items: Sequence[TestItem]) -> str:
    """Twelve hexadecimal digits over everything in the items, whatever their order: one changed letter changes it."""
    return content_hash(sorted((item.id, content_hash(item)) for item in items))[:12]


def choose(items: Sequence[TestItem], count: int, types: Sequence[str], seed: int) -> list[TestItem]:
    """A seeded choice of `count` items (0: all) of the given types (none: all), of near-equal numbers per type.

    Types that run short give their places to the others. The order is that of the full set, so that the same seed
    gives the same list.

    Raises:
        SettingsError: an unknown type, or more items wanted than there are.
    """
    known = sorted({item.type for item in items})
    if unknown := sorted(set(types) - set(known)):
        raise SettingsError(f"no items of type '{unknown[0]}'", place="suite.types", hint=f"known: {', '.join(known)}")
    wanted = [item for item in items if not types or item.type in types]
    if count > len(wanted):
        raise SettingsError(f"{count} items asked for, {len(wanted)} there", place="suite.count", hint="0 takes all")
    if count == 0:
        return wanted
    by_type: dict[str, list[TestItem]] = defaultdict(list)
    for item in wanted:
        by_type[item.type].append(item)
    for name, members in by_type.items():
        stream(seed, "suite", name).shuffle(members)
    order = sorted(by_type)
    stream(seed, "suite", "order of types").shuffle(order)
    chosen = {item.id for item in take_turns([by_type[name][::-1] for name in order], count)}
    return [item for item in wanted if item.id in chosen]


def overlap(items: Sequence[TestItem], texts: Iterable[str], ngram_share: float = 0.7) -> list[Overlap]:
    """Every (item, text) pair that is too close; each pair is named once, with its strongest kind.

    Args:
        items: the held-out items.
        texts: training instructions, training texts, few-shot pools.
        ngram_share: the least share of an instruction's 8-word runs found in one text that counts (PaLM's rule).
    """
    folded = {item.id: fold(item.instruction) for item in items}
    by_fold, by_words = _index(folded), _index({item.id: _content(item.instruction) for item in items})
    grams: dict[tuple[str, ...], set[str]] = defaultdict(set)
    counts: Counter[str] = Counter()
    heads: dict[tuple[str, ...], set[str]] = defaultdict(set)
    for item in items:
        tokens = folded[item.id].split()
        for gram in _grams(tokens):
            grams[gram].add(item.id)
            counts[item.id] += 1
        if len(tokens) >= 4:
            heads[tuple(tokens[:4])].add(item.id)
    exact = {item.id: item.instruction for item in items}
    found = []
    for index, text in enumerate(texts):
        kinds: dict[str, tuple[str, float]] = {}
        tokens = fold(text).split()
        shared: Counter[str] = Counter(i for gram in _grams(tokens) for i in grams.get(gram, ()))
        kinds.update({i: ("ngram", n / counts[i]) for i, n in shared.items() if n / counts[i] >= ngram_share})
        kinds.update(dict.fromkeys(by_words.get(_content(text), ()), ("same_words", 1.0)))
        inside = {i for at in range(len(tokens) - 3) for i in heads.get(tuple(tokens[at : at + 4]), ())}
        padded = f" {' '.join(tokens)} "
        kinds.update({i: ("contained", 1.0) for i in inside if f" {folded[i]} " in padded})
        for i in by_fold.get(" ".join(tokens), ()):
            kinds[i] = ("exact" if exact[i] == text else "folded", 1.0)
        found += [Overlap(i, index, kind, share, text) for i, (kind, share) in sorted(kinds.items())]
    return found


def _content(text: str) -> tuple[str, ...]:
    """The words that carry an instruction's content, sorted."""
    return tuple(sorted(token for token in fold(text).split() if token not in _STOP_WORDS))


def _grams(tokens: Sequence[str]) -> set[tuple[str, ...]]:
    return {tuple(tokens[i : i + _NGRAM]) for i in range(len(tokens) - _NGRAM + 1)}


def _index(values: dict[str, object] | dict[str, str] | dict[str, tuple[str, ...]]) -> dict[object, list[str]]:
    index: dict[object, list[str]] = defaultdict(list)
    for item_id, value in values.items():
        if value:
            index[value].append(item_id)
    return index
