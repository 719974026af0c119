"""The words that stories are asked to use: by part of speech and difficulty, within limits, drawn evenly.

A list is a YAML file (`words.yaml` is the shipped one, for young children). Every word is held against the limits of
its list when it is read or added, and one that may not stand there is refused with its reason. A plan deals words out
of shuffled stacks: no word comes again before all of its kind have come, and no triple of words ever comes twice.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from itertools import islice
from pathlib import Path
from random import Random
from typing import Any

import yaml

from rung.base.errors import DataError
from rung.base.seeds import stream
from rung.datagen.stories.inflect import Irregular, forms, read_irregular
from rung.datagen.wording import words as spoken

__all__ = ["KINDS", "WORDS", "Limits", "Triple", "Vocabulary", "Word", "load_vocabulary", "syllables", "triples"]

KINDS = ("noun", "verb", "adjective")
WORDS = Path(__file__).parent / "words.yaml"
Triple = tuple["Word", "Word", "Word"]
_MOST_TRIES = 1000


@dataclass(frozen=True, slots=True)
class Word:
    """A word of the list; `level` is its difficulty, 1 the easiest."""

    text: str
    kind: str
    level: int


@dataclass(frozen=True, slots=True)
class Limits:
    """What a word must meet to be in the list."""

    max_letters: int
    max_syllables: int
    blocked: frozenset[str]

    def fault(self, text: str) -> str:
        """Why a word may not stand in the list: "not_a_word", "too_long", "too_many_syllables", "blocked"; or ""."""
        if not re.fullmatch(r"[a-z]+", text):
            return "not_a_word"
        if text in self.blocked:
            return "blocked"
        if len(text) > self.max_letters:
            return "too_long"
        return "too_many_syllables" if syllables(text) > self.max_syllables else ""


@dataclass(frozen=True)
class Vocabulary:
    """The words of a list, with what goes with it: limits, irregular forms, words that are always allowed."""

    name: str
    words: tuple[Word, ...]
    limits: Limits
    irregular: Irregular
    function_words: frozenset[str]

    def of(self, kind: str, max_level: int = 3) -> tuple[Word, ...]:
        """The words of one kind up to a difficulty."""
        return tuple(word for word in self.words if word.kind == kind and word.level <= max_level)

    def fault(self, word: Word) -> str:
        """Why a word cannot be added; "known" for one that is there already, "" when it can."""
        known = any(word.text == one.text and word.kind == one.kind for one in self.words)
        return "known" if known else self.limits.fault(word.text)

    @cached_property
    def known_forms(self) -> frozenset[str]:
        """Every form of every word of the list, and the words that are always allowed."""
        return self.function_words.union(*(forms(word.text, self.irregular) for word in self.words))

    def with_words(self, words: Sequence[Word]) -> Vocabulary:
        """The list with more words at its end.

        Raises:
            DataError: one of them may not stand in it.
        """
        for word in words:
            if fault := self.fault(word):
                raise DataError(f"the {word.kind} '{word.text}' cannot be added: {fault}", place=self.name)
        return replace(self, words=(*self.words, *words))


def syllables(word: str) -> int:
    """Syllables of an English word by its groups of vowels: a silent final e and a silent -ed are not counted."""
    lower = word.lower()
    count = len(re.findall(r"[aeiouy]+", lower))
    silent = re.search(r"(?<![aeiouyl])e$|(?<![aeiouydt])ed$|(?<![aeiouylscxzg])es$", lower)
    return max(1, count - (silent is not None))


def triples(vocabulary: Vocabulary, seed: int, max_level: int = 3) -> Iterator[Triple]:
    """Noun, verb and adjective, again and again: each kind is dealt from a stack that is shuffled anew when it is
    empty, and a triple that came before changes its adjective. The sequence follows from list, level and seed alone.

    Raises:
        DataError: a kind has no words, or no new triple can be found.
    """
    stacks = [_dealt(vocabulary.of(kind, max_level), stream(seed, "words", kind), kind) for kind in KINDS]
    seen: set[tuple[str, ...]] = set()
    while True:
        noun, verb = next(stacks[0]), next(stacks[1])
        fresh = (a for a in islice(stacks[2], _MOST_TRIES) if (noun.text, verb.text, a.text) not in seen)
        adjective = next(fresh, None)
        if adjective is None:
            raise DataError("no new triple of words can be found", place=vocabulary.name, hint="add words to the list")
        seen.add((noun.text, verb.text, adjective.text))
        yield noun, verb, adjective


def _dealt(words: Sequence[Word], random: Random, kind: str) -> Iterator[Word]:
    if not words:
        raise DataError(f"the list has no {kind} of this level", place="vocabulary", hint="raise max_level")
    while True:
        yield from random.sample(words, len(words))


def load_vocabulary(path: Path = WORDS) -> Vocabulary:
    """Read a list: {noun, verb, adjective: {level: words}}, `limits`, `blocked`, `irregular`, `function_words`.

    Raises:
        DataError: unreadable, a part that is missing, or a word over the limits, blocked, or there twice; names it.
    """
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise DataError(f"cannot read the list of words: {error}", place=path.name) from error
    if not isinstance(values, Mapping) or not values.keys() >= {*KINDS, "limits", "blocked"}:
        raise DataError("a list of words needs noun, verb, adjective, limits and blocked", place=path.name)
    limits = _limits(values, path.name)
    irregular = read_irregular(values.get("irregular", {}), path.name)
    empty = Vocabulary(path.name, (), limits, irregular, frozenset(spoken(values.get("function_words", ""))))
    words, first = [], set[tuple[str, str]]()
    for word in _listed(values, path.name):
        fault = "there twice" if (word.kind, word.text) in first else limits.fault(word.text)
        if fault:
            raise DataError(f"the {word.kind} '{word.text}' may not stand in the list: {fault}", place=path.name)
        first.add((word.kind, word.text))
        words.append(word)
    return replace(empty, words=tuple(words))


def _listed(values: Mapping[str, Any], place: str) -> Iterator[Word]:
    for kind in KINDS:
        levels = values[kind]
        if not isinstance(levels, Mapping) or not all(isinstance(level, int) for level in levels):
            raise DataError(f"'{kind}' maps difficulties (1, 2, ...) to words", place=place)
        for level, text in levels.items():
            yield from (Word(one, kind, level) for one in str(text).split())


def _limits(values: Mapping[str, Any], place: str) -> Limits:
    said = values["limits"]
    if not isinstance(said, Mapping) or set(said) != {"max_letters", "max_syllables"}:
        raise DataError("limits are max_letters and max_syllables", place=place)
    return Limits(int(said["max_letters"]), int(said["max_syllables"]), frozenset(str(values["blocked"]).split()))
