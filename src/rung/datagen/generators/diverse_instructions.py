"""Instructions by diversity-guided prompting: a sentence names topics and kind, recent instructions are shown.

The plain list makes a model repeat its prior; other seeds do not help. Here every call names other topics, and shows
instructions written earlier in the run as items of the list, so that the model goes on with something else. Measured
on an earlier system: repeats fell from 67 % to 0.8 %. It costs a longer prompt and a hotter, noisier sampling.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from random import Random

from rung.base.seeds import derive, stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.numbered import Call, GeneratedInstructions, collect, list_prompt, list_stop
from rung.datagen.pool import Pool, load_topics
from rung.datagen.wording import predict_type
from rung.records.contracts import Completer, Request, Sampling

__all__ = ["DiverseInstructions"]

_KINDS = {
    "factual": "short questions about facts",
    "explanation": "requests to explain something in a sentence or two",
    "list_generation": "requests for short lists",
    "instruction_following": "small tasks with an exact rule for the form of the answer",
    "creative": "small creative writing tasks",
    "classification": "questions to be answered with one of a few words",
    "rewriting": "requests to change or translate a sentence that is given in quotes",
    "safety": "questions that a careful assistant refuses or answers with advice",
}


class DiverseInstructions:
    """Asks a completer for varied instructions of one kind over named topics.

    Args:
        completer: continues the prompts.
        pool: where examples come from.
    """

    class Settings(BaseSettings):
        """How lists are made and sampled; nothing here touches how responses are sampled."""

        num_shown: int = Field(default=7, ge=2, le=40, description="items shown in the list")
        num_recent: int = Field(default=2, ge=0, le=20, description="how many of them the model itself wrote earlier")
        num_topics: int = Field(default=2, ge=1, le=10, description="topics named in a call")
        num_taken: int = Field(default=3, ge=1, le=20, description="instructions taken from one continuation")
        topics: str = Field(default="topics", description="a shipped list of topics, or a YAML file by path")
        types: Mapping[str, float] = Field(
            default_factory=dict, description="types and their relative shares; empty: all of the pool, equally"
        )
        temperature: float = Field(default=0.8, ge=0, le=2, description="of the sampling")
        top_p: float = Field(default=0.9, gt=0, le=1, description="of the sampling")
        repetition_penalty: float = Field(default=1.3, ge=1, le=2, description="of the sampling")
        max_new_tokens: int = Field(default=100, ge=1, description="limit of one continuation")

    def __init__(self, settings: Settings, *, completer: Completer, pool: Pool) -> None:
        self.settings, self._completer, self._pool = settings, completer, pool
        self._topics = load_topics(settings.topics)
        self._turns = _turns(settings.types or dict.fromkeys(pool.types, 1.0))

    def generate(self, num_calls: int, seed: int, known: Sequence[str] = ()) -> GeneratedInstructions:
        """`num_calls` continuations; `known` are the instructions kept so far, latest last, shown as ones to avoid."""
        by_type: dict[str, list[str]] = {}
        for text in known:
            by_type.setdefault(predict_type(text, ""), []).append(text)
        calls = [self._call(number, seed, by_type) for number in range(num_calls)]
        completions = self._completer.complete([call.request for call in calls])
        return collect("diverse_instructions", calls, completions, self.settings.num_taken)

    def _call(self, number: int, seed: int, known: Mapping[str, Sequence[str]]) -> Call:
        settings = self.settings
        own_seed = derive(seed, "diverse_instructions", number)
        random = stream(own_seed, "shown")
        kind = self._turns[number % len(self._turns)]
        topics = random.sample(self._topics, min(settings.num_topics, len(self._topics)))
        shown = self._shown(kind, random, known.get(kind, ()))
        opening = f"A list of varied instructions about {_joined(topics)}: {_KINDS.get(kind, kind)}. No two are alike."
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=settings.max_new_tokens,
            stop=list_stop(len(shown), settings.num_taken),
        )
        prompt = list_prompt(shown, opening)
        return Call(kind, shown, Request(f"diverse-{seed}-{number}", sampling, own_seed, prompt))

    def _shown(self, kind: str, random: Random, known: Sequence[str]) -> tuple[str, ...]:
        # Only the latest hundred count as recent: they are what the model is most likely to say again.
        recent = list(known[-100:])
        own = random.sample(recent, min(self.settings.num_recent, len(recent)))
        count = min(self.settings.num_shown - len(own), len(self._pool.of_type(kind)))
        examples = [example.instruction for example in self._pool.draw(count, random, [kind])] if count > 0 else []
        return (*examples, *own)


def _joined(topics: Sequence[str]) -> str:
    return topics[0] if len(topics) == 1 else f"{', '.join(topics[:-1])} and {topics[-1]}"


def _turns(shares: Mapping[str, float], length: int = 40) -> tuple[str, ...]:
    """An order in which the types take turns in proportion to their shares: always the one furthest behind."""
    total = sum(shares.values())
    given = dict.fromkeys(shares, 0)
    turns: list[str] = []
    for number in range(1, length + 1):
        kind = max(shares, key=lambda name: shares[name] / total * number - given[name])
        given[kind] += 1
        turns.append(kind)
    return tuple(turns)
