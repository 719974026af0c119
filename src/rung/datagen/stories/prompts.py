"""What is asked of the writer: words, features and a template for every number of a plan, as messages.

A plan is a sequence that follows from its settings and seed alone: prompt n is the same whoever asks for it and
whatever came of the others. Templates and shots are read and checked before anything is written. Shots are turns of
their own, so that a completer that takes messages sees them unmerged; one whose words are asked for is not shown.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.seeds import derive, stream
from rung.base.settings import Field, Settings
from rung.datagen.stories.features import Features
from rung.datagen.stories.vocabulary import KINDS, Triple, Vocabulary, triples
from rung.datagen.templates import Template, read_yaml, template
from rung.records.types import Message, record_id

__all__ = ["PROMPTS", "PlanSettings", "Planner", "Shot", "StoryPrompt", "joined", "load_prompts"]

PROMPTS = Path(__file__).parent / "prompts.yaml"


class PlanSettings(Settings):
    """What a prompt asks for."""

    kinds: tuple[str, ...] = Field(KINDS, min_length=1, description="kinds of words in a prompt: noun, verb, adjective")
    max_level: int = Field(2, ge=1, le=3, description="hardest words that are asked for")
    min_features: int = Field(1, ge=0, le=4, description="fewest features asked for")
    max_features: int = Field(2, ge=0, le=4, description="most features asked for")
    templates: tuple[str, ...] = Field((), description="names of templates to use, taking turns; empty: all there are")
    num_shots: int = Field(3, ge=0, le=8, description="stories shown before the request")
    num_shot_sets: int = Field(4, ge=1, le=1000, description="sets of shots; prompts of a set begin alike, which an "
                               "engine computes once")  # fmt: skip
    length: int = Field(80, ge=10, le=1000, description="words that a story is asked to have")


@dataclass(frozen=True, slots=True)
class Shot:
    """A story that is shown, with what it was asked for."""

    words: tuple[str, ...]
    features: tuple[str, ...]
    text: str


@dataclass(frozen=True, slots=True)
class StoryPrompt:
    """One request for a story. `number` is its place in the plan; `level` that of its hardest word; `shots` are what
    is shown before it."""

    id: str
    number: int
    words: tuple[str, ...]
    features: tuple[str, ...]
    level: int
    shots: tuple[Shot, ...]
    template: Template
    messages: tuple[Message, ...]


class Planner:
    """Prompts by number.

    Args:
        settings: what is asked for.
        vocabulary: where words come from.
        features: what can be asked for beside words.
        templates: by name, checked.
        shots: stories to show.

    Raises:
        DataError: a kind, template or number of features that is not there.
    """

    def __init__(
        self,
        settings: PlanSettings,
        vocabulary: Vocabulary,
        features: Features,
        prompts: tuple[Mapping[str, Template], Sequence[Shot]],
    ) -> None:
        self.settings, self.vocabulary, self.features = settings, vocabulary, features
        known, self._shots = prompts
        names = settings.templates or tuple(known)
        for name, there in (*((n, known) for n in names), *((k, KINDS) for k in settings.kinds)):
            if name not in there:
                raise DataError(f"there is no '{name}'", place="plan", hint=f"known: {', '.join(there)}")
        if settings.min_features > settings.max_features:
            raise DataError("min_features is above max_features", place="plan.min_features")
        self.templates = tuple(known[name] for name in names)

    def prompts(self, seed: int, first: int = 0, step: int = 1) -> Iterator[StoryPrompt]:
        """The prompts numbered `first`, `first + step`, ... of the plan under `seed`."""
        dealt = enumerate(triples(self.vocabulary, derive(seed, "plan"), self.settings.max_level))
        for number, triple in islice(dealt, first, None, step):
            yield self._prompt(number, triple, seed)

    def retold(self, prompt: StoryPrompt, used: Template) -> StoryPrompt:
        """The same request in another template."""
        shown = [turn for shot in prompt.shots for turn in self._shown(used, shot)]
        messages = (*shown, Message("user", self._asked(used, prompt.words, prompt.features)))
        name = record_id("story_prompt", prompt.number, [message.content for message in messages])
        return replace(prompt, id=name, template=used, messages=messages)

    def _prompt(self, number: int, triple: Triple, seed: int) -> StoryPrompt:
        own, random = self.settings, stream(seed, "prompt", number)
        asked = [word for word in triple if word.kind in own.kinds]
        words = tuple(word.text for word in asked)
        features = self.features.draw(random.randint(own.min_features, own.max_features), random)
        drawn = stream(seed, "shots", number % own.num_shot_sets).sample(self._shots, len(self._shots))
        shots = tuple([shot for shot in drawn if not set(shot.words) & set(words)][: own.num_shots])
        used = self.templates[number // own.num_shot_sets % len(self.templates)]
        level = max(word.level for word in asked)
        return self.retold(StoryPrompt("", number, words, features, level, shots, used, ()), used)

    def _shown(self, used: Template, shot: Shot) -> tuple[Message, Message]:
        return Message("user", self._asked(used, shot.words, shot.features)), Message("assistant", shot.text)

    def _asked(self, used: Template, words: Sequence[str], features: Sequence[str]) -> str:
        asked = joined([self.features[name].asked for name in features]) or "a beginning and an end"
        return used.fill(
            words=joined([f'"{word}"' for word in words]), features=asked, length=str(self.settings.length)
        )


def joined(parts: Sequence[str]) -> str:
    """One, two and three."""
    return " and ".join([", ".join(parts[:-1]), parts[-1]] if len(parts) > 1 else list(parts))


def load_prompts(features: Features, path: Path = PROMPTS) -> tuple[dict[str, Template], list[Shot]]:
    """Templates by name and the shots of a file.

    Raises:
        DataError: unreadable; a template without {words} or {features}, or with another placeholder; a shot that lacks
            a field or names a feature that is not there.
    """
    values = read_yaml(path, "prompts of stories")
    said = values.get("templates")
    if not isinstance(said, Mapping) or not said:
        raise DataError("there are no templates", place=path.name)
    known = {
        str(name): template(f"{path.name}: {name}", text, ("words", "features"), ("length",))
        for name, text in said.items()
    }
    return known, [_shot(shot, features, f"{path.name}: shot {n}") for n, shot in enumerate(values.get("shots", ()), 1)]


def _shot(values: Any, features: Features, place: str) -> Shot:
    if not isinstance(values, Mapping) or set(values) != {"words", "features", "text"}:
        raise DataError("a shot has words, features and a text", place=place)
    shot = Shot(tuple(values["words"]), tuple(values["features"]), str(values["text"]).strip())
    rules = (
        (not all(name in features for name in shot.features), "names a feature that is not there"),
        (not shot.text or not shot.words, "has no text or no words"),
    )
    if wrong := next((why for broken, why in rules if broken), ""):
        raise DataError(f"the shot {wrong}", place=place)
    return shot
