"""`/v1/rung/...`: the engine's own requests and answers, whole, for recipes that use this server as their completer.

OpenAI's shapes leave out what records hold: the text after a stop string, token ids, exact token counts.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import pydantic

from rung.app.server.forms import End, Offer, prompt_ids
from rung.app.server.refusals import Refusal
from rung.base.settings import Field, Settings
from rung.engine.engine import Intake
from rung.engine.score import Pair, make_pairs
from rung.records.contracts import Capabilities, Completion, Request, Scored

__all__ = ["CompleteForm", "Completed", "CountForm", "Counted", "ModelShown", "ScoreForm", "ScoredPairs", "read_own"]


class ModelShown(pydantic.BaseModel):
    """The served model as a manifest describes one; `able` is what the engine over it can do."""

    model: str
    able: Capabilities
    facts: dict[str, Any]


class Completed(pydantic.BaseModel):
    """One completion per request, in order."""

    completions: list[Completion]


class ScoredPairs(pydantic.BaseModel):
    """One score per pair, in order."""

    scored: list[Scored]


class Counted(pydantic.BaseModel):
    """Lengths in tokens, start token not counted."""

    counts: list[int]


class CompleteForm(Settings):
    """Requests as the engine takes them."""

    requests: tuple[Request, ...] = Field(min_length=1, description="to be completed, each by its own seed")

    def checked(self, offer: Offer) -> tuple[Request, ...]:
        """The requests, none of them beyond a limit.

        Raises:
            Refusal: 400.
            SettingsError, DataError: a request that the engine cannot do.
        """
        limits = offer.limits
        _at_most("requests", len(self.requests), min(limits.prompts, offer.most))
        for one in self.requests:
            _at_most("max_new_tokens", one.sampling.max_new_tokens, limits.new_tokens)
            _at_most("stop", len(one.sampling.stop), limits.stop_strings)
            if one.text or one.token_ids:
                prompt_ids(offer, one.text or one.token_ids)
        offer.intake.jobs(self.requests)
        return self.requests

    def whole(self, ends: Sequence[End]) -> Completed:
        """The engine's completions."""
        return Completed(completions=[end.completion for end in ends])


class ScoreForm(Settings):
    """Continuations and what comes before each."""

    prompts: tuple[str, ...] = Field(description="what comes before")
    continuations: tuple[str, ...] = Field(description="what is scored, as many as prompts")

    def pairs(self, intake: Intake) -> list[Pair]:
        """As `Engine.score` makes them.

        Raises:
            DataError: unequal numbers, no context, or too long.
        """
        return make_pairs(self.prompts, self.continuations, intake.tokenizer, intake.max_context)


class CountForm(Settings):
    """Texts to be measured."""

    texts: tuple[str, ...] = Field(description="texts")


F = TypeVar("F", bound=Settings)


def read_own(form: type[F], body: bytes) -> F:
    """The form in `body`.

    Raises:
        Refusal: 400; no value is repeated.
    """
    try:
        return form.model_validate_json(body)
    except pydantic.ValidationError as error:
        problem = error.errors(include_url=False, include_input=False)[0]
        place = ".".join(map(str, problem["loc"]))
        raise Refusal(400, "invalid_value", f"{place or 'the body'}: {problem['msg']}", param=place or None) from None


def _at_most(what: str, count: int, limit: int) -> None:
    if count > limit:
        raise Refusal(400, "over_limit", f"{what} is {count}, at most {limit} is allowed", param=what)
