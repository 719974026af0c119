"""What a sequence may pause for, and what it was told: kept apart from the sequence, which may begin again.

A cache that is full sends sequences back to their prompts. They draw the same tokens again, come to the same pauses,
and find there what they were told the first time.

Legend: V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

from rung.base.errors import ModelError
from rung.engine.steering.spikes import Spikes, SpikeSettings

__all__ = ["Exchange", "Limits", "Reason", "Watch", "Watching"]

Reason = Literal["token", "spike"]


@dataclass(frozen=True, slots=True)
class Exchange:
    """A pause that is over: it came after `num_drawn` tokens, for `reason`, and `token_ids` were put into the context
    there (none: the sequence went on without)."""

    num_drawn: int
    reason: Reason
    token_ids: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Limits:
    """How often one sequence may be stopped: `questions` that it may ask (an answer after a spike is one, too), and
    `spikes` that may be looked at."""

    questions: int
    spikes: int


class Watch:
    """What one request may pause for.

    Args:
        clarify: the reserved token that pauses; None: none does.
        others: bool [V], every token but the reserved one: the mask when no question is left.
        spikes: what counts as a spike of entropy, to pause there too; None: never.
        limits: how often.
    """

    def __init__(self, clarify: int | None, others: Tensor, spikes: SpikeSettings | None, limits: Limits) -> None:
        self.clarify, self.others, self.spikes, self.limits = clarify, others, spikes, limits
        self.exchanges: list[Exchange] = []

    def start(self) -> Watching:
        """The place before the first token."""
        return Watching(self)


class Watching:
    """One run of a sequence under its watch.

    `told` are tokens that go into the context before the next draw, `context` all that follow the prompt there: drawn
    and told, in order. `sampling_entropies` belong to the drawn ones.
    """

    def __init__(self, watch: Watch) -> None:
        self._watch, self._passed = watch, list[Exchange]()
        self._spikes = Spikes(watch.spikes) if watch.spikes is not None else None
        self.told: list[int] = []
        self.context: list[int] = []
        self.paused: Reason | None = None
        self.sampling_entropies: list[float] = []

    def is_mark(self, token: int) -> bool:
        """Whether it is the reserved token."""
        return token == self._watch.clarify

    def allowed(self, state_V: Tensor | None, spare: bool) -> Tensor | None:
        """The tokens that a constraint allows (None: all), with the reserved one where a question and a token to
        `spare` for it are left, and without it elsewhere."""
        clarify = self._watch.clarify
        if clarify is None:
            return state_V
        if not (spare and self._may_ask()):
            return self._watch.others if state_V is None else state_V & self._watch.others
        if state_V is not None:
            state_V = state_V.clone()
            state_V[clarify] = True
        return state_V

    def after(self, num_drawn: int, token: int, entropy: float | None) -> None:
        """Read the token just drawn and its entropy: go on, pause, or take what was told at this very place before.

        Raises:
            ModelError: a repeated run came to another pause than the first.
        """
        # the baseline learns from every token, whether or not a spike could still be asked about
        spike = self._spikes is not None and entropy is not None and self._spikes.add(entropy)
        if self.is_mark(token):
            self._stop(num_drawn, "token")
        elif spike and self._may_look():
            self._stop(num_drawn, "spike")

    def go_on(self, num_drawn: int, token_ids: tuple[int, ...]) -> None:
        """End the pause; `token_ids` (any number) come next in the context."""
        assert self.paused is not None
        exchange = Exchange(num_drawn, self.paused, token_ids)
        self._watch.exchanges.append(exchange)
        self.paused = None
        self._pass(exchange)

    def hear(self) -> int:
        """The next token that is told; it belongs to the context from now on."""
        self.context.append(self.told.pop(0))
        return self.context[-1]

    def _may_ask(self) -> bool:
        asked = sum(one.reason == "token" or bool(one.token_ids) for one in self._passed)
        return asked < self._watch.limits.questions

    def _may_look(self) -> bool:
        return self._may_ask() and sum(one.reason == "spike" for one in self._passed) < self._watch.limits.spikes

    def _stop(self, num_drawn: int, reason: Reason) -> None:
        known = self._watch.exchanges[len(self._passed) :]
        if not known:
            self.paused = reason
        elif (known[0].num_drawn, known[0].reason) == (num_drawn, reason):
            self._pass(known[0])
        else:
            raise ModelError(
                f"a sequence paused after {known[0].num_drawn} tokens, and at {num_drawn} when it was repeated",
                hint="leave the weights alone while sequences are paused, or cancel these first",
            )

    def _pass(self, exchange: Exchange) -> None:
        self._passed.append(exchange)
        self.told = [*exchange.token_ids]
