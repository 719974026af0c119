"""The promises that parts make to each other. They end in -er, take lists and return lists.

Concurrency lives inside whoever keeps the promise; callers hand over all they have and read the answers in order.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, Protocol, runtime_checkable

from rung.records.rollout import Support
from rung.records.types import Drop, Message

__all__ = [
    "MOST_TOP",
    "Capabilities",
    "Completer",
    "Completion",
    "FilterResult",
    "Item",
    "Request",
    "Sampling",
    "Score",
    "Scored",
    "Scorer",
    "Trace",
]

FinishReason = Literal["stop", "eos", "length"]
MOST_TOP = 20
"""The most that `Request.top_logprobs` may ask for."""


@dataclass(frozen=True, slots=True)
class Sampling:
    """How to draw tokens. `temperature` 0 is greedy; `top_k` 0 and `top_p` 1 are off; penalties divide (HF's rule).

    `stop` are strings, matched over the decoded text across token boundaries; the text is cut right before the first.
    """

    temperature: float = 0.0
    top_p: float = 1.0
    top_k: int = 0
    repetition_penalty: float = 1.0
    max_new_tokens: int = 100
    stop: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Request:
    """One thing to complete: exactly one of `text`, `token_ids` or `messages` says what.

    `text` is encoded without special tokens; the model's declared start token (if any) is put in front by the
    completer, once. `seed` alone decides the random draws. `constraint` is `{kind: what}`: `choice` (a list of
    strings), `regex`, `json` (true), `json_schema`, `gbnf` (llama.cpp's notation) or `python` (settings). It takes no
    stop strings. `top_logprobs` asks for so many of the likeliest tokens at every place, `keep_supports` for which
    tokens could be drawn there.
    """

    id: str
    sampling: Sampling
    seed: int = 0
    text: str = ""
    token_ids: tuple[int, ...] = ()
    messages: tuple[Message, ...] = ()
    constraint: Mapping[str, Any] | None = None
    top_logprobs: int = 0
    keep_supports: bool = False


@dataclass(frozen=True, slots=True)
class Completion:
    """What came back.

    `text` is cut at the stop string; `raw_text` is everything decoded; `token_ids` are all tokens drawn, the end
    token included when it was drawn. Per token, in nats: `logprobs` under the distribution really sampled from
    (0.0 for greedy), `raw_logprobs` under the unmodified model, `entropies` of the unmodified model.
    `finish_reason` is "length" exactly when `max_new_tokens` was reached without an end or a stop string.

    Under a constraint `complete` says whether the text is a whole one of its language (None without a constraint), and
    is false only where a cut-off could not be prevented. Then `logprobs` are those of the masked distribution, a text
    after which nothing may follow ends with "stop", and "length" says that the limit had a say: it was reached, or it
    forced the text to close. Such a text is valid, but it may have had more to say.

    `top` has, per token and where `top_logprobs` were asked for, that many likeliest tokens of the unmodified model
    with their log-probabilities (nats), the likeliest first, equal ones by id. `refusal` is what a provider said
    instead of an answer; the text is then empty.

    `supports` say, per token and where `keep_supports` asked, which tokens constraint, top-k and top-p left (None: all
    of them); `logprobs` are normalised over exactly these.
    """

    id: str
    text: str
    raw_text: str
    token_ids: tuple[int, ...]
    finish_reason: FinishReason
    num_prompt_tokens: int
    logprobs: tuple[float, ...] = ()
    raw_logprobs: tuple[float, ...] = ()
    entropies: tuple[float, ...] = ()
    complete: bool | None = None
    top: tuple[tuple[tuple[int, float], ...], ...] = ()
    refusal: str = ""
    supports: tuple[Support | None, ...] = ()

    @property
    def hit_limit(self) -> bool:
        """Whether the token limit ended it."""
        return self.finish_reason == "length"


@dataclass(frozen=True, slots=True)
class Scored:
    """Log-probabilities (nats) of a given continuation's tokens under the unmodified model."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]

    @property
    def total(self) -> float:
        """Sum over tokens."""
        return float(sum(self.logprobs))

    @property
    def mean(self) -> float:
        """Mean per token; 0.0 for an empty continuation."""
        return self.total / len(self.logprobs) if self.logprobs else 0.0


@dataclass(frozen=True, slots=True)
class Capabilities:
    """What a completer can do. `clean` says whether its model came through the clean loader, `start_ids` what it
    puts in front of every prompt, `max_context` in tokens (0: unknown)."""

    name: str
    logprobs: bool
    score: bool
    constraints: bool
    messages: bool
    clean: bool
    max_context: int = 0
    start_ids: tuple[int, ...] = ()


@runtime_checkable
class Completer(Protocol):
    """Tokens in, tokens out."""

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order."""

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        """Log-probabilities of each continuation after its prompt; the two are tokenised apart and joined as ids."""

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in the model's own tokens, start token not counted."""

    def capabilities(self) -> Capabilities:
        """What this completer can do."""


@dataclass(frozen=True, slots=True)
class Item:
    """Something to be answered: the instruction, its type, and what a scorer may look at (`reference`)."""

    id: str
    instruction: str
    type: str = ""
    reference: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Trace:
    """An answer to an item. `turns` are its parts where it was given in several generations; `text` then holds all."""

    item_id: str
    text: str
    completion: Completion | None = None
    turns: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Score:
    """A value with its reason and parts. A failed scorer abstains (value None); it never scores 0."""

    value: float | None
    reason: str = ""
    components: Mapping[str, float] = field(default_factory=dict)
    abstained: bool = False


@runtime_checkable
class Scorer(Protocol):
    """Is this answer good? Verifiers, rewards and judges all keep this promise."""

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order."""


@dataclass(frozen=True, slots=True)
class FilterResult:
    """What a filter kept, changed or not, and what it dropped with reasons."""

    kept: tuple[Any, ...]
    dropped: tuple[Drop, ...]
