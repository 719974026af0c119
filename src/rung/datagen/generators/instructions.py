"""Instructions by continuing a numbered few-shot list that stops at a bare number. No template, any base model.

Each call shows examples of the pool, either balanced over all types or all of one type (`per_type`): a list of one
type makes the model write that type, which is then the type it is filed under unless the opening says otherwise.
"""

from __future__ import annotations

from collections.abc import Sequence

from rung.base.seeds import derive, stream
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.numbered import Call, GeneratedInstructions, collect, list_prompt, list_stop
from rung.datagen.pool import Pool
from rung.records.contracts import Completer, Request, Sampling

__all__ = ["Instructions"]


class Instructions:
    """Asks a completer to go on with numbered lists.

    Args:
        completer: continues the prompts.
        pool: where examples come from.
    """

    class Settings(BaseSettings):
        """How lists are made and sampled; nothing here touches how responses are sampled."""

        num_shown: int = Field(
            default=10, ge=1, le=40, description="examples in the list; fewer where a type has fewer"
        )
        num_taken: int = Field(default=3, ge=1, le=20, description="instructions taken from one continuation")
        per_type: bool = Field(default=False, description="show one type per call, the types taking turns")
        types: tuple[str, ...] = Field(default=(), description="types to draw from; empty: all of the pool")
        temperature: float = Field(default=0.7, ge=0, le=2, description="of the sampling")
        top_p: float = Field(default=0.9, gt=0, le=1, description="of the sampling")
        repetition_penalty: float = Field(default=1.1, ge=1, le=2, description="of the sampling")
        max_new_tokens: int = Field(default=100, ge=1, description="limit of one continuation")

    def __init__(self, settings: Settings, *, completer: Completer, pool: Pool) -> None:
        self.settings, self._completer, self._pool = settings, completer, pool

    def generate(self, num_calls: int, seed: int, known: Sequence[str] = ()) -> GeneratedInstructions:
        """`num_calls` continuations. `known` instructions are not shown: this generator looks at the pool alone."""
        calls = [self._call(number, seed) for number in range(num_calls)]
        completions = self._completer.complete([call.request for call in calls])
        return collect("instructions", calls, completions, self.settings.num_taken)

    def _call(self, number: int, seed: int) -> Call:
        settings = self.settings
        own_seed = derive(seed, "instructions", number)
        random = stream(own_seed, "shown")
        types = settings.types or self._pool.types
        kind = types[number % len(types)] if settings.per_type else ""
        available = len(self._pool.of_type(kind)) if kind else sum(len(self._pool.of_type(t)) for t in types)
        drawn = self._pool.draw(min(settings.num_shown, available), random, [kind] if kind else types)
        shown = tuple(example.instruction for example in drawn)
        sampling = Sampling(
            temperature=settings.temperature,
            top_p=settings.top_p,
            repetition_penalty=settings.repetition_penalty,
            max_new_tokens=settings.max_new_tokens,
            stop=list_stop(len(shown), settings.num_taken),
        )
        request = Request(f"instructions-{seed}-{number}", sampling, own_seed, list_prompt(shown))
        return Call(kind or "factual", shown, request)
