"""More words for a list, from a completer: step by step, each word held against the limits before it is taken.

A numbered list of known words is gone on with. What is over the limits, blocked, no single word or known already is
dropped with its reason. Only what is missing is asked for: a list that is long enough costs nothing. A model's word
comes in at the hardest level, since nobody has said how easy it is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from rung.base.seeds import derive, stream
from rung.base.settings import Field, Settings
from rung.datagen.numbered import list_prompt, list_stop, parse_list
from rung.datagen.stories.vocabulary import KINDS, Vocabulary, Word
from rung.datagen.templates import Template, read_yaml, template
from rung.records.contracts import Completer, Completion, Request, Sampling
from rung.records.types import Drop, record_id

__all__ = ["GrowSettings", "Grown", "grow", "list_text"]

_TEMPLATE = Path(__file__).with_name("growing.yaml")
_NEW_LEVEL = 3


class GrowSettings(Settings):
    """How long the list is to be, and how words are asked for."""

    wanted: Mapping[str, int] = Field({"noun": 900, "verb": 520, "adjective": 450}, description="words of each kind")
    num_shown: int = Field(12, ge=2, le=40, description="known words shown in a request")
    num_taken: int = Field(20, ge=1, le=40, description="words taken from one answer")
    calls: int = Field(8, ge=1, le=256, description="requests of one step")
    max_steps: int = Field(10, ge=1, description="steps before what is missing is stated")
    temperature: float = Field(0.9, ge=0, le=2, description="of the sampling")


@dataclass(frozen=True, slots=True)
class Grown:
    """The longer list, what could not be taken, and how many words are still missing of each kind."""

    vocabulary: Vocabulary
    dropped: tuple[Drop, ...]
    missing: dict[str, int]
    num_tokens: int


def grow(vocabulary: Vocabulary, completer: Completer, settings: GrowSettings, seed: int) -> Grown:
    """Add words of each kind until there are as many as wanted, or the steps are used up."""
    opening = template(_TEMPLATE.name, read_yaml(_TEMPLATE, "openings").get("opening"), ("kind",))
    dropped: list[Drop] = []
    num_tokens = 0
    for kind in (kind for kind in KINDS if kind in settings.wanted):
        for step in range(settings.max_steps):
            missing = settings.wanted[kind] - len(vocabulary.of(kind))
            if missing <= 0:
                break
            requests = _requests(vocabulary, kind, settings, derive(seed, kind, step), opening)
            completions = completer.complete(requests)
            num_tokens += sum(len(done.token_ids) for done in completions)
            vocabulary, refused = _taken(vocabulary, kind, completions, (settings.num_taken, missing))
            dropped += refused
    left = {kind: max(0, count - len(vocabulary.of(kind))) for kind, count in settings.wanted.items()}
    return Grown(vocabulary, tuple(dropped), left, num_tokens)


def _requests(vocabulary: Vocabulary, kind: str, settings: GrowSettings, seed: int, opening: Template) -> list[Request]:
    known, found = [word.text for word in vocabulary.of(kind)], []
    for number in range(settings.calls):
        own_seed = derive(seed, number)
        shown = stream(own_seed, "shown").sample(known, min(settings.num_shown, len(known)))
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=0.95,
            max_new_tokens=5 * settings.num_taken,
            stop=list_stop(len(shown), settings.num_taken),
        )
        prompt = list_prompt(shown, opening.fill(kind=kind))
        found.append(Request(f"words-{kind}-{own_seed}", sampling, own_seed, prompt))
    return found


def _taken(
    vocabulary: Vocabulary, kind: str, completions: Sequence[Completion], limits: tuple[int, int]
) -> tuple[Vocabulary, list[Drop]]:
    """The list with the good words of all answers, at most as many as are missing; the others with their reasons."""
    per_answer, missing = limits
    added: list[Word] = []
    dropped: list[Drop] = []
    for completion in completions:
        good, bad = parse_list(completion.text, (), completion.hit_limit)
        for text in good[:per_answer]:
            word = Word(text.strip(" .,;").lower(), kind, _NEW_LEVEL)
            fault = "known" if word in added else vocabulary.fault(word)
            if fault:
                dropped.append(_drop(kind, word.text, fault))
            elif len(added) < missing:
                added.append(word)
        dropped += [_drop(kind, line, reason) for reason, line, _ in bad]
    return vocabulary.with_words(added), dropped


def _drop(kind: str, text: str, reason: str) -> Drop:
    return Drop(record_id("word", kind, text, reason), text, "grow_words", reason, None, {"kind": kind})


def list_text(vocabulary: Vocabulary) -> str:
    """The list as the text of a file that `load_vocabulary` reads back equal."""
    values: dict[str, Any] = {}
    for word in vocabulary.words:
        values.setdefault(word.kind, {}).setdefault(word.level, []).append(word.text)
    joined = {kind: {level: " ".join(texts) for level, texts in levels.items()} for kind, levels in values.items()}
    limits = vocabulary.limits
    said = {
        **joined,
        "limits": {"max_letters": limits.max_letters, "max_syllables": limits.max_syllables},
        "blocked": " ".join(sorted(limits.blocked)),
        "irregular": {"all": " ".join(f"{word}:{','.join(found)}" for word, found in vocabulary.irregular.items())},
        "function_words": " ".join(sorted(vocabulary.function_words)),
    }
    return yaml.safe_dump(said, sort_keys=False, width=110)
