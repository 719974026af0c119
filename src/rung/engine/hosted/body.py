"""What is sent: a request as JSON, holding allowed fields only, with personal data and secrets taken out.

Everything that can be refused is refused here, before anything of a list of requests leaves.
"""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from rung.base.errors import DataError, SettingsError
from rung.engine.hosted.formats import response_format
from rung.engine.hosted.purse import Usage
from rung.engine.hosted.settings import HostedSettings, LimitSettings, SentField
from rung.engine.redact import Kind, find, redact
from rung.records.contracts import MOST_TOP, Request, Sampling

__all__ = ["Body", "completion_body", "estimated_tokens", "score_body"]

_ROLES = ("system", "user", "assistant", "tool")
_OPTIONAL: frozenset[SentField] = frozenset({"stop", "seed"})  # left out, the answer is still what was asked for
_MAX_STOP = 4  # more are refused by the protocol's first server; ours are applied again anyway
_MESSAGE_TOKENS = 8  # what a template puts around one message, generously


@dataclass(frozen=True, slots=True)
class Body:
    """A request ready to be sent: its fields, the most it can use, and how many findings of each kind were replaced."""

    fields: Mapping[str, Any]
    upper: Usage
    redacted: Mapping[Kind, int] = field(default_factory=dict)

    @property
    def chat(self) -> bool:
        """Whether it goes to the chat endpoint."""
        return "messages" in self.fields


def completion_body(request: Request, settings: HostedSettings, secrets: Sequence[str] = ()) -> Body:
    """The body of one completion.

    Raises:
        SettingsError: something this endpoint cannot do, or a field that may not be sent.
        DataError: too long, or blocked for the personal data or secrets in it.
    """
    place = f"request '{request.id}'"
    _check(request, settings, place)
    cleaned = _Cleaned(settings, secrets, place)
    sampling = request.sampling
    limit: SentField = "max_completion_tokens" if "max_completion_tokens" in settings.fields else "max_tokens"
    fields: dict[SentField, Any] = {
        "model": settings.model,
        **_prompt(request, cleaned),
        limit: sampling.max_new_tokens,
        "temperature": sampling.temperature,
        **_changed(sampling),
        "seed": request.seed,
        **_figures(request, settings),
        **_format(request, cleaned, place),
    }
    if stop := [s for s in sampling.stop if not cleaned.found(s)]:
        fields["stop"] = stop[:_MAX_STOP]
    upper = Usage(_prompt_tokens(request), sampling.max_new_tokens)
    return Body(_allowed(fields, settings, place), upper, cleaned.counts)


def _figures(request: Request, settings: HostedSettings) -> dict[SentField, Any]:
    """Log-probabilities: the two endpoints ask for alternatives in two ways."""
    if settings.logprobs == "off":
        return {}
    if not request.messages:
        return {"logprobs": max(1, request.top_logprobs)}
    return {"logprobs": True, **({"top_logprobs": request.top_logprobs} if request.top_logprobs else {})}


def _format(request: Request, cleaned: _Cleaned, place: str) -> dict[SentField, Any]:
    if request.constraint is None:
        return {}
    form = response_format(request.constraint, place)
    if cleaned.found(json.dumps(form, ensure_ascii=False)):
        raise DataError(
            "not sent, its schema holds personal data or a secret",
            place=place,
            hint="take it out: a schema with something replaced would be another schema",
        )
    return {"response_format": form}


def score_body(prompt: str, continuation: str, settings: HostedSettings, secrets: Sequence[str] = ()) -> Body:
    """The body that asks for the log-probabilities of `prompt + continuation` and for no new token.

    Raises:
        SettingsError: a field that may not be sent.
        DataError: too long, or holding personal data or secrets: a redacted text would be another text's score.
    """
    place, privacy = "score", settings.privacy
    text = prompt + continuation
    if privacy.mode != "off" and (found := find(text, privacy.kinds, secrets)):
        raise _blocked([finding.kind for finding in found], place)
    fields: dict[SentField, Any] = {
        "model": settings.model,
        "prompt": text,
        "max_tokens": 0,
        "temperature": 0.0,
        "logprobs": 1,
        "echo": True,
    }
    return Body(_allowed(fields, settings, place), Usage(estimated_tokens(text, 3), 1))


def estimated_tokens(text: str, bytes_per_token: int) -> int:
    """Tokens of a text by its UTF-8 length: 4 bytes a token is usual for English, 3 is on the safe side of most."""
    return math.ceil(len(text.encode("utf-8", "replace")) / bytes_per_token)


class _Cleaned:
    """Takes findings out of texts as the settings say, and counts them."""

    def __init__(self, settings: HostedSettings, secrets: Sequence[str], place: str) -> None:
        self._privacy, self._secrets, self._place = settings.privacy, secrets, place
        self.counts: Counter[Kind] = Counter()

    def text(self, text: str) -> str:
        """The text as it may be sent."""
        if self._privacy.mode == "off":
            return text
        clean, found = redact(text, self._privacy.kinds, self._secrets)
        if found and self._privacy.mode == "block":
            raise _blocked([finding.kind for finding in found], self._place)
        self.counts.update(finding.kind for finding in found)
        return clean

    def found(self, text: str) -> bool:
        """Whether there is something to take out; a stop string like that stays here and acts on our side."""
        return self._privacy.mode != "off" and bool(find(text, self._privacy.kinds, self._secrets))


def _check(request: Request, settings: HostedSettings, place: str) -> None:
    given = [name for name in ("text", "token_ids", "messages") if getattr(request, name)]
    if len(given) != 1:
        raise SettingsError(f"exactly one of text, token_ids and messages is needed, given: {given}", place=place)
    _check_figures(request, settings, place)
    if request.constraint is not None and "response_format" not in settings.fields:
        raise SettingsError(
            "this endpoint's output is not constrained",
            place=place,
            hint="add response_format to the completer's fields where the server obeys it",
        )
    if request.constraint is not None and request.sampling.stop:
        raise SettingsError(
            "stop strings are given with a constraint", place=place, hint="let the constraint alone end the text"
        )
    if request.messages and settings.api != "chat":
        raise SettingsError("the completions api takes no messages", place=place, hint="set api: chat")
    if not request.messages and settings.api == "chat":
        raise SettingsError(f"the chat api takes no {given[0]}", place=place, hint="set api: completions")
    if request.token_ids:
        _check_token_ids(settings, place)
    if bad := [message.role for message in request.messages if message.role not in _ROLES]:
        raise SettingsError(f"there is no role '{bad[0]}'", place=place, hint=f"known: {', '.join(_ROLES)}")
    if request.sampling.max_new_tokens < 1 or not all(request.sampling.stop):
        raise SettingsError("max_new_tokens is below 1 or a stop string is empty", place=place)


def _check_figures(request: Request, settings: HostedSettings, place: str) -> None:
    if request.keep_supports:
        raise SettingsError(
            "no endpoint tells which tokens could be drawn", place=place, hint="sample with an engine of rung"
        )
    if not 0 <= request.top_logprobs <= MOST_TOP:
        raise SettingsError(f"top_logprobs is {request.top_logprobs}", place=place, hint=f"use 0 (none) to {MOST_TOP}")
    if request.top_logprobs and settings.logprobs == "off":
        raise SettingsError(
            "this endpoint is not known to give log-probabilities",
            place=place,
            hint="set logprobs: raw or sampled, as its documentation says, or ask for no top_logprobs",
        )


def _check_token_ids(settings: HostedSettings, place: str) -> None:
    if not settings.accepts_token_ids:
        raise SettingsError(
            "this endpoint is not known to take token ids",
            place=place,
            hint="send text, or set accepts_token_ids: true where the server takes them",
        )
    if settings.privacy.mode != "off":
        raise SettingsError(
            "token ids cannot be searched for personal data", place=place, hint="send text, or set privacy.mode: off"
        )


def _prompt(request: Request, cleaned: _Cleaned) -> dict[SentField, Any]:
    if request.messages:
        return {"messages": [{"role": m.role, "content": cleaned.text(m.content)} for m in request.messages]}
    return {"prompt": list(request.token_ids) if request.token_ids else cleaned.text(request.text)}


def _prompt_tokens(request: Request) -> int:
    """The upper estimate, of the text as it came: redaction only shortens what matters here."""
    texts = [request.text, *(message.content for message in request.messages)]
    around = _MESSAGE_TOKENS * (len(request.messages) + 1)
    return len(request.token_ids) + sum(estimated_tokens(text, 3) for text in texts) + around


def _changed(sampling: Sampling) -> dict[SentField, Any]:
    """Settings that are on; a server that never heard of one that is off need not be told."""
    off = Sampling()
    names: tuple[SentField, ...] = ("top_p", "top_k", "repetition_penalty")
    return {name: getattr(sampling, name) for name in names if getattr(sampling, name) != getattr(off, name)}


def _allowed(fields: dict[SentField, Any], settings: HostedSettings, place: str) -> dict[str, Any]:
    for name in fields:
        if name not in settings.fields and name not in _OPTIONAL:
            raise SettingsError(
                f"the request needs the field '{name}', which may not be sent",
                place=place,
                hint=f"add {name} to the completer's fields where the server knows it, or ask without it",
            )
    sent: dict[str, Any] = {name: value for name, value in fields.items() if name in settings.fields}
    _check_length(sent, settings.limits, place)
    return sent


def _check_length(sent: Mapping[str, Any], limits: LimitSettings, place: str) -> None:
    text = json.dumps(sent, ensure_ascii=False)
    if not text.isascii() and text.encode("utf-8", "replace").decode() != text:
        raise DataError("the request holds half a surrogate pair, which is no text", place=place)
    length = len(text)
    if length > limits.request_characters:
        raise DataError(
            f"the request has {length} characters, {limits.request_characters} may be sent",
            place=place,
            hint="shorten the prompt or raise limits.request_characters",
        )


def _blocked(kinds: Sequence[Kind], place: str) -> DataError:
    return DataError(
        f"not sent, it holds: {', '.join(sorted(set(kinds)))}",
        place=place,
        hint="take it out of the data; privacy.mode: redact replaces it in prompts",
    )
