"""Reading replies strictly: what is not as the protocol promises is named, never guessed. Their text is data only.

A hosted model's token ids are unknown. In their place stand negative numbers, which no vocabulary has: their count is
right, equal numbers are equal token texts, and whoever takes them for ids fails at once. Those of `top` are made the
same way, so a drawn token is found among its alternatives.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from typing import Any, NoReturn

from rung.base.seeds import derive
from rung.engine.hosted.body import estimated_tokens
from rung.engine.hosted.failure import Unreadable
from rung.engine.hosted.formats import obeys
from rung.engine.hosted.purse import Usage
from rung.engine.hosted.settings import HostedSettings
from rung.records.contracts import Completion, FinishReason, Request, Sampling, Scored
from rung.records.stop import cut_at_stop

__all__ = ["parse", "read_completion", "read_scored", "read_usage"]

_UNKNOWN = -1
_MOST_TOKENS = 1 << 31


def parse(content: bytes) -> Mapping[str, Any]:
    """The reply's JSON object.

    Raises:
        Unreadable: it is not one.
    """
    try:
        payload = json.loads(content, parse_constant=_no_constant)
    except (ValueError, RecursionError) as error:
        raise Unreadable("the reply is not JSON") from error
    return _mapping(payload, "the reply")


def read_usage(payload: Mapping[str, Any]) -> Usage | None:
    """What the server says it counted; None where it says nothing usable."""
    usage = payload.get("usage")
    if not isinstance(usage, Mapping):
        return None
    counts = [usage.get("prompt_tokens"), usage.get("completion_tokens", 0)]
    prompt, completion = (c if type(c) is int and 0 <= c < _MOST_TOKENS else None for c in counts)
    return None if prompt is None or completion is None else Usage(prompt, completion)


def read_completion(payload: Mapping[str, Any], request: Request, settings: HostedSettings) -> Completion:
    """The answer to `request`, cut at its stop strings whatever the server did.

    Raises:
        Unreadable: naming what is missing or of the wrong shape.
    """
    choice = _the_choice(payload)
    if refusal := _refusal(choice):
        return _refused(payload, request, refusal)
    raw = _text(choice, bool(request.messages))
    texts, values = _logprobs(choice, bool(request.messages)) if settings.logprobs != "off" else ([], [])
    if None in values:
        raise Unreadable("a log-probability is null")
    text, stopped = cut_at_stop(raw, request.sampling.stop)
    usage = read_usage(payload) or Usage(estimated_tokens(request.text, 4), estimated_tokens(raw, 4))
    count = min(usage.completion_tokens, request.sampling.max_new_tokens)
    sampled, unmodified = _kinds_of_logprobs([v for v in values if v is not None], request.sampling, settings)
    return Completion(
        id=request.id,
        text=text,
        raw_text=raw,
        token_ids=tuple(map(_stand_in, texts)) if texts else (_UNKNOWN,) * count,
        finish_reason="stop" if stopped else _finish_reason(choice, request.sampling),
        num_prompt_tokens=usage.prompt_tokens,
        logprobs=sampled,
        raw_logprobs=unmodified,
        complete=None if request.constraint is None else obeys(text, request.constraint),
        top=_top(choice, bool(request.messages), request.top_logprobs, len(texts)),
    )


def read_scored(payload: Mapping[str, Any], continuation: str) -> Scored:
    """The log-probabilities of the echoed tokens that spell `continuation`, the last of the echo.

    Raises:
        Unreadable: no echo with log-probabilities, or a token that spans the continuation's beginning.
    """
    texts, values = _logprobs(_the_choice(payload), chat=False)
    first, length = len(texts), 0
    while first > 0 and length < len(continuation):
        first -= 1
        length += len(texts[first])
    if "".join(texts[first:]) != continuation:
        raise Unreadable("the echoed tokens do not meet where the continuation begins", retryable=False)
    own = [value for value in values[first:] if value is not None]
    if len(own) != len(texts) - first:
        raise Unreadable("a token of the continuation has no log-probability", retryable=False)
    return Scored(tuple(map(_stand_in, texts[first:])), tuple(own))


def _the_choice(payload: Mapping[str, Any]) -> Mapping[str, Any]:
    choices = payload.get("choices")
    if not isinstance(choices, list):
        raise Unreadable("the reply has no list 'choices'")
    if len(choices) != 1:
        raise Unreadable(f"the reply has {len(choices)} choices, one was asked for")
    return _mapping(choices[0], "choices[0]")


def _refusal(choice: Mapping[str, Any]) -> str:
    """What a chat says in place of content; empty where it answers."""
    message = choice.get("message")
    said = message.get("refusal") if isinstance(message, Mapping) and message.get("content") is None else None
    return _storable(said) if isinstance(said, str) else ""


def _refused(payload: Mapping[str, Any], request: Request, refusal: str) -> Completion:
    """No answer, and not a cut one either: the provider's words stand apart from the text, which is empty."""
    usage = read_usage(payload) or Usage(estimated_tokens(request.text, 4), estimated_tokens(refusal, 4))
    return Completion(
        id=request.id,
        text="",
        raw_text="",
        token_ids=(),
        finish_reason="stop",
        num_prompt_tokens=usage.prompt_tokens,
        complete=None if request.constraint is None else False,
        refusal=refusal,
    )


def _text(choice: Mapping[str, Any], chat: bool) -> str:
    name = "message.content" if chat else "text"
    text = _mapping(choice.get("message"), "choices[0].message").get("content") if chat else choice.get("text")
    if not isinstance(text, str):
        raise Unreadable(f"choices[0].{name} is {type(text).__name__}, not text")
    return _storable(text)


def _storable(text: str) -> str:
    """Half a surrogate pair is valid in JSON and cannot be written to any file."""
    return text.encode("utf-8", "replace").decode("utf-8")


def _finish_reason(choice: Mapping[str, Any], sampling: Sampling) -> FinishReason:
    """ "stop" may mean a stop string or the end token; some servers tell them apart in `stop_reason`."""
    reason = choice.get("finish_reason")
    if reason == "length":
        return "length"
    if reason != "stop":
        known = isinstance(reason, str) and reason in ("content_filter", "tool_calls", "function_call")
        raise Unreadable(f"finish_reason is {reason if known else type(reason).__name__}, not stop or length")
    by_end = not sampling.stop or ("stop_reason" in choice and choice["stop_reason"] is None)
    return "eos" if by_end else "stop"


def _logprobs(choice: Mapping[str, Any], chat: bool) -> tuple[list[str], list[float | None]]:
    """Token texts with their log-probabilities; None stands where the server has none (a first token)."""
    given = _mapping(choice.get("logprobs"), "choices[0].logprobs")
    if chat:
        entries = [_mapping(entry, "logprobs.content") for entry in _list(given.get("content"), "logprobs.content")]
        texts, values = [e.get("token") for e in entries], [e.get("logprob") for e in entries]
    else:
        texts = _list(given.get("tokens"), "logprobs.tokens")
        values = _list(given.get("token_logprobs"), "logprobs.token_logprobs")
    if len(texts) != len(values) or not all(isinstance(text, str) for text in texts):
        raise Unreadable("log-probabilities and token texts do not belong together")
    return [str(text) for text in texts], [_logprob(value) for value in values]


def _top(
    choice: Mapping[str, Any], chat: bool, count: int, num_tokens: int
) -> tuple[tuple[tuple[int, float], ...], ...]:
    """Per token the likeliest ones, best first; nothing where none were asked for."""
    if not count:
        return ()
    given = _mapping(choice.get("logprobs"), "choices[0].logprobs")
    entries = given.get("content") if chat else given.get("top_logprobs")
    places = [_alternatives(entry, chat)[:count] for entry in _list(entries, "top_logprobs")]
    if len(places) != num_tokens:
        raise Unreadable(f"there are top_logprobs for {len(places)} tokens of {num_tokens}")
    return tuple(places)


def _alternatives(entry: Any, chat: bool) -> tuple[tuple[int, float], ...]:
    if chat:
        found = _list(_mapping(entry, "logprobs.content").get("top_logprobs"), "logprobs.content.top_logprobs")
        pairs = [(_mapping(one, "top_logprobs").get("token"), one.get("logprob")) for one in found]
    else:
        pairs = [*_mapping(entry, "logprobs.top_logprobs").items()]
    if not all(isinstance(text, str) for text, _ in pairs):
        raise Unreadable("an alternative token has no text")
    known = [(_stand_in(str(text)), logprob) for text, value in pairs if (logprob := _logprob(value)) is not None]
    return tuple(sorted(known, key=lambda pair: -pair[1]))


def _logprob(value: Any) -> float | None:
    if value is None:
        return None
    if isinstance(value, bool) or not isinstance(value, (int, float)) or not -1e6 < value < 1e-3:
        raise Unreadable("a log-probability is not a number below zero")
    return float(value)


def _kinds_of_logprobs(
    values: Sequence[float], sampling: Sampling, settings: HostedSettings
) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """The server's values as (sampled, raw): one of them, or both where the sampling settings change nothing."""
    plain = sampling.top_p == 1 and sampling.top_k == 0 and sampling.repetition_penalty == 1
    if plain and math.isclose(sampling.temperature, 1):
        return tuple(values), tuple(values)
    if settings.logprobs == "sampled":
        return tuple(values), ()
    return (0.0,) * len(values) if sampling.temperature == 0 else (), tuple(values)


def _stand_in(token_text: str) -> int:
    return -2 - derive(0, token_text) % (1 << 31)


def _mapping(value: Any, name: str) -> Mapping[str, Any]:
    if not isinstance(value, Mapping):
        raise Unreadable(f"{name} is {type(value).__name__}, not an object")
    return value


def _list(value: Any, name: str) -> list[Any]:
    if not isinstance(value, list):
        raise Unreadable(f"{name} is {type(value).__name__}, not a list")
    return value


def _no_constant(name: str) -> NoReturn:
    raise ValueError(f"{name} is no JSON")
