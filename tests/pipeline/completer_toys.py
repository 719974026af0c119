"""A generator of instructions for a model that knows nothing: whatever it writes is put behind a fixed beginning."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from rung.base.seeds import derive
from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.datagen.numbered import GeneratedInstructions
from rung.records.contracts import Request, Sampling
from rung.records.types import Instruction


class Babble:
    """One instruction a call."""

    class Settings(BaseSettings):
        """How much is written."""

        num_taken: int = Field(1, description="instructions of a call")
        max_new_tokens: int = Field(6, description="of one instruction")

    def __init__(self, settings: Settings, *, completer: Any, pool: Any) -> None:
        self.settings, self._completer = settings, completer

    def generate(self, num_calls: int, seed: int, known: Sequence[str] = ()) -> GeneratedInstructions:
        """`num_calls` of them."""
        how = Sampling(temperature=1.0, max_new_tokens=self.settings.max_new_tokens)
        requests = [Request(f"{seed}-{n}", how, derive(seed, n), "Say") for n in range(min(4, num_calls))]
        done = self._completer.complete(requests)
        found = [Instruction(one.id, "Say " + one.text.encode().hex(), "t", "h", seed) for one in done]
        return GeneratedInstructions(tuple(found), (), (), sum(len(one.token_ids) for one in done))
