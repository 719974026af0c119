"""Requests, checked and turned into token ids before any work is done."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from rung.base.errors import DataError, SettingsError
from rung.engine.constraints.compiling import Compiler
from rung.engine.constraints.jump import Jump
from rung.engine.constraints.protocol import Constraint
from rung.engine.steering.watch import Watch
from rung.records.contracts import MOST_TOP, Request, Sampling
from rung.records.tokenizer import Tokenizer

__all__ = ["Job", "make_jobs", "with_start"]

_MOST_TOP_K = 1 << 63  # what a tensor can hold


@dataclass(frozen=True, slots=True)
class Job:
    """A request at its place in the caller's list, with the ids that the model will read (start ids included) and what
    its answer must obey; `watch` says what it pauses for, `jump` spells what the constraint forces."""

    place: int
    request: Request
    prompt_ids: tuple[int, ...]
    constraint: Constraint | None = None
    watch: Watch | None = None
    jump: Jump | None = None


def make_jobs(
    requests: Sequence[Request], tokenizer: Tokenizer, max_context: int, vocabulary: int, compiler: Compiler
) -> list[Job]:
    """Check all requests; the first bad one stops everything. `max_context` 0 is unlimited.

    Raises:
        SettingsError: sampling settings out of range, a wrong constraint, one that cannot be met within the limit, or
            something this engine cannot do.
        MissingDependency: a constraint needs a package that is not installed.
        DataError: a prompt that is empty, has unknown ids, or does not fit `max_context` with its new tokens.
    """
    encoded = iter(tokenizer.encode_batch([r.text for r in requests if not r.token_ids]))
    jobs = []
    for place, request in enumerate(requests):
        _check_request(request)
        ids = list(request.token_ids) if request.token_ids else next(encoded)
        prompt_ids = with_start(ids, tokenizer)
        _check_prompt(request, prompt_ids, max_context, vocabulary)
        constraint = _constraint(request, compiler)
        jump = compiler.jump() if constraint is not None else None
        jobs.append(Job(place, request, prompt_ids, constraint, jump=jump))
    return jobs


def with_start(token_ids: Sequence[int], tokenizer: Tokenizer) -> tuple[int, ...]:
    """The ids with the model's start ids in front, once: ids that begin with them already stay as they are."""
    start = tokenizer.start_ids
    return tuple(token_ids) if tuple(token_ids[: len(start)]) == start else (*start, *token_ids)


def _check_request(request: Request) -> None:
    place = f"request '{request.id}'"
    if request.messages:
        raise SettingsError(
            "the engine reads token ids or text, not messages", place=place, hint="render the messages first"
        )
    if request.text and request.token_ids:
        raise SettingsError("both text and token_ids are given", place=place, hint="give exactly one of them")
    if request.constraint is not None and request.sampling.stop:
        raise SettingsError(
            "stop strings are given with a constraint", place=place, hint="let the constraint alone end the text"
        )
    if not 0 <= request.top_logprobs <= MOST_TOP:
        raise SettingsError(f"top_logprobs is {request.top_logprobs}", place=place, hint=f"use 0 (none) to {MOST_TOP}")
    if request.keep_supports and request.sampling.repetition_penalty != 1.0:
        raise SettingsError(
            "supports are kept of what logits and temperature alone decide, and a repetition penalty is set",
            place=place,
            hint="set repetition_penalty to 1: what a policy samples under a penalty cannot be trained on exactly",
        )
    _check_sampling(request.sampling, place)


def _constraint(request: Request, compiler: Compiler) -> Constraint | None:
    if request.constraint is None:
        return None
    place = f"request '{request.id}'"
    constraint = compiler.compile(request.constraint, place)
    needed, limit = constraint.start().shortest(), request.sampling.max_new_tokens
    if needed is not None and needed > limit:
        raise SettingsError(
            f"max_new_tokens is {limit}, and the shortest text of the constraint is known to fit {needed}",
            place=place,
            hint=f"set max_new_tokens to {needed} or more",
        )
    return constraint


def _check_sampling(sampling: Sampling, place: str) -> None:
    ranges = (
        ("temperature", sampling.temperature, sampling.temperature >= 0, "0 (greedy) or more"),
        ("top_p", sampling.top_p, 0 < sampling.top_p <= 1, "above 0, at most 1 (off)"),
        ("top_k", sampling.top_k, 0 <= sampling.top_k < _MOST_TOP_K, "0 (off) or more"),
        ("repetition_penalty", sampling.repetition_penalty, sampling.repetition_penalty > 0, "above 0; 1 is off"),
        ("max_new_tokens", sampling.max_new_tokens, sampling.max_new_tokens >= 1, "at least 1"),
        ("stop", sampling.stop, all(sampling.stop), "strings that are not empty"),
    )
    for name, value, fits, wanted in ranges:
        if not fits:
            raise SettingsError(f"sampling.{name} is {value!r}", place=place, hint=f"use {wanted}")


def _check_prompt(request: Request, prompt_ids: tuple[int, ...], max_context: int, vocabulary: int) -> None:
    place = f"request '{request.id}'"
    if not prompt_ids:
        raise DataError(
            "the prompt is empty and this model has no start token", place=place, hint="give at least one token"
        )
    if min(prompt_ids) < 0 or max(prompt_ids) >= vocabulary:
        bad = next(i for i in prompt_ids if not 0 <= i < vocabulary)
        raise DataError(f"token id {bad} is outside the model's vocabulary of {vocabulary}", place=place)
    wanted = len(prompt_ids) + request.sampling.max_new_tokens
    if max_context and wanted > max_context:
        raise DataError(
            f"the prompt has {len(prompt_ids)} tokens and {request.sampling.max_new_tokens} new ones are asked for: "
            f"{wanted} do not fit the limit of {max_context}",
            place=place,
            hint="shorten the prompt, lower max_new_tokens or raise the engine's max_context",
        )
