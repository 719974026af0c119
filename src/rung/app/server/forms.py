"""What both endpoints share: a checked request becomes requests of the engine, and what comes back becomes text."""

from __future__ import annotations

import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import pydantic

from rung.app.server.protocol import Drawing
from rung.app.server.refusals import Refusal
from rung.app.server.settings import LimitSettings
from rung.app.server.shapes import Finish, Usage
from rung.base.seeds import derive
from rung.engine.engine import Intake
from rung.engine.jobs import with_start
from rung.engine.lane import Token
from rung.engine.score import Pair
from rung.engine.tickets import News
from rung.records.contracts import Completion, Request, Sampling, Scored

__all__ = ["End", "Form", "Name", "Offer", "ended", "prompt_ids", "requests_for", "usage_of"]


@dataclass(frozen=True, slots=True)
class Offer:
    """What is served: the model's name, what it takes in, and what one request may ask for; `most` sequences fit into
    slots and queue together."""

    model: str
    intake: Intake
    limits: LimitSettings
    most: int


@dataclass(frozen=True, slots=True)
class Name:
    """What an answer is called."""

    id: str
    created: int

    @staticmethod
    def new(kind: str) -> Name:
        """A fresh one, such as `cmpl-...`."""
        return Name(f"{kind}-{secrets.token_hex(12)}", int(time.time()))


@dataclass(frozen=True, slots=True)
class End:
    """A finished answer with the tokens of its text."""

    tokens: tuple[Token, ...]
    completion: Completion


class Form(Protocol):
    """A kind of request on its way to the engine and back."""

    requests: tuple[Request, ...]
    pairs: tuple[Pair, ...]

    def scored(self, scores: Sequence[Scored]) -> None:
        """Take the scores of `pairs`."""

    def whole(self, ends: Sequence[End]) -> pydantic.BaseModel:
        """The answer in one object."""

    def opening(self) -> Sequence[pydantic.BaseModel]:
        """Chunks that come before anything is drawn."""

    def chunk(self, index: int, news: News) -> pydantic.BaseModel:
        """The chunk for one piece of answer `index`."""

    def closing(self, ends: Sequence[End]) -> pydantic.BaseModel:
        """The chunk with the token counts."""


def prompt_ids(offer: Offer, prompt: str | tuple[int, ...]) -> tuple[int, ...]:
    """What the model reads, start ids included.

    Raises:
        Refusal: 400; longer than a prompt may be.
    """
    tokenizer, most = offer.intake.tokenizer, offer.limits.prompt_tokens
    ids = with_start(tokenizer.encode(prompt) if isinstance(prompt, str) else prompt, tokenizer)
    if most and len(ids) > most:
        raise Refusal(400, "prompt_too_long", f"a prompt has {len(ids)} tokens, at most {most} are taken")
    return ids


def requests_for(
    asked: Drawing, offer: Offer, prompts: Sequence[tuple[int, ...]], sampling: Sequence[Sampling], name: Name
) -> tuple[Request, ...]:
    """`n` requests for each prompt, in the order of the answers' indices. The first of each prompt has the seed that
    was asked for, the others seeds derived from it.

    Raises:
        Refusal: 404 another model; 400 above a limit.
    """
    limits, num_choices = offer.limits, asked.n or 1
    if asked.model != offer.model:
        raise Refusal(404, "model_not_found", f"the model served here is '{offer.model}'", param="model")
    _at_most("prompt", len(prompts), limits.prompts, "prompts")
    _at_most("n", num_choices, limits.choices, "answers to a prompt")
    _at_most("stop", len(asked.stop_strings), limits.stop_strings, "stop strings")
    _at_most("n", len(prompts) * num_choices, offer.most, "answers in one request")
    for one in sampling:
        _at_most("max_tokens", one.max_new_tokens, limits.new_tokens, "new tokens")
    seed = secrets.randbelow(1 << 31) if asked.seed is None else asked.seed
    seeds = [seed, *(derive(seed, "choice", choice) for choice in range(1, num_choices))]
    return tuple(
        Request(f"{name.id}-{place}-{choice}", how, own_seed, token_ids=ids, constraint=asked.rule)
        for place, (ids, how) in enumerate(zip(prompts, sampling, strict=True))
        for choice, own_seed in enumerate(seeds)
    )


def ended(completion: Completion, sampling: Sampling) -> tuple[Finish, str | None]:
    """`finish_reason` and `stop_reason`."""
    if completion.hit_limit:
        return "length", None
    rest = completion.raw_text[len(completion.text) :]
    stops = [stop for stop in sampling.stop if rest.startswith(stop)]
    return "stop", stops[0] if completion.finish_reason == "stop" and stops else None


def usage_of(ends: Sequence[End], num_choices: int, num_echoed: int = 0) -> Usage:
    """Token counts; a prompt with several answers counts once. `num_echoed` where nothing was drawn."""
    num_prompt = num_echoed or sum(end.completion.num_prompt_tokens for end in ends[::num_choices])
    num_drawn = sum(len(end.completion.token_ids) for end in ends)
    return Usage(prompt_tokens=num_prompt, completion_tokens=num_drawn, total_tokens=num_prompt + num_drawn)


def _at_most(field: str, count: int, limit: int, what: str) -> None:
    if count > limit:
        raise Refusal(400, "over_limit", f"{count} {what} are asked for, at most {limit} are allowed", param=field)
