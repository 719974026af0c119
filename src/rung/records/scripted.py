"""A completer that plays back answers: no model, no torch, every later room testable with it.

Stop strings and token limits act as in the engine, so code that relies on them is tested for real. A "token" here is
a run of non-space characters with the spaces before it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence

from rung.records.contracts import Capabilities, Completion, FinishReason, Request, Scored
from rung.records.stop import cut_at_stop

__all__ = ["Scripted"]

_TOKEN = re.compile(r"\s*\S+|\s+$")


class Scripted:
    """Plays `answer(request) -> text`; an `answer` given as a list is played in order.

    `score_of(prompt, continuation) -> total log-probability` answers `score`, spread evenly over tokens.
    `requests` and `scored` record what was asked.
    """

    def __init__(
        self,
        answer: Callable[[Request], str] | Sequence[str],
        score_of: Callable[[str, str], float] | None = None,
        clean: bool = True,
    ) -> None:
        self._answers = None if callable(answer) else list(answer)
        self._answer = answer if callable(answer) else self._next
        self._score_of, self._clean = score_of, clean
        self.requests: list[Request] = []
        self.scored: list[tuple[str, str]] = []

    def _next(self, request: Request) -> str:
        if not self._answers:
            raise AssertionError(f"the script has no answer left for request {request.id}")
        return self._answers.pop(0)

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """Play back one answer per request, cut at stop strings and at the token limit."""
        self.requests += requests
        return [self._play(request) for request in requests]

    def _play(self, request: Request) -> Completion:
        tokens = _TOKEN.findall(self._answer(request))
        limit = request.sampling.max_new_tokens
        raw = "".join(tokens[:limit])
        text, stopped = cut_at_stop(raw, request.sampling.stop)
        reason: FinishReason = "stop" if stopped else "length" if len(tokens) >= limit else "eos"
        count = len(_TOKEN.findall(raw))
        return Completion(
            id=request.id,
            text=text,
            raw_text=raw,
            token_ids=tuple(range(count)),
            finish_reason=reason,
            num_prompt_tokens=len(_TOKEN.findall(request.text)),
            logprobs=(0.0,) * count,
            raw_logprobs=(0.0,) * count,
            entropies=(0.0,) * count,
        )

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        """`score_of` for each pair."""
        if self._score_of is None:
            raise AssertionError("this script was given no scores")
        self.scored += zip(prompts, continuations, strict=True)
        answers = []
        for prompt, continuation in zip(prompts, continuations, strict=True):
            count = max(1, len(_TOKEN.findall(continuation)))
            each = self._score_of(prompt, continuation) / count
            answers.append(Scored(tuple(range(count)), (each,) * count))
        return answers

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Scripted tokens of each text."""
        return [len(_TOKEN.findall(text)) for text in texts]

    def capabilities(self) -> Capabilities:
        """Everything but constraints."""
        return Capabilities(
            "scripted",
            logprobs=True,
            score=self._score_of is not None,
            constraints=False,
            messages=True,
            clean=self._clean,
        )
