"""A model behind an OpenAI-compatible endpoint as a completer: retries, rate limits, caps, strict reading.

What it does not do: it has no tokenizer, so `count_tokens` is an estimate (4 bytes of UTF-8 a token) and token ids
are stand-ins (see `rung.engine.hosted.reply`); it cannot vouch that the model behind the address is a base model, so
`clean` is never claimed; a seed is passed on, but whether it decides the answer is up to the server. JSON is asked for
where `response_format` may be sent, and the answer is checked: `complete` says whether it is what was asked for. Other
constraints a provider cannot be asked for, so `capabilities` does not promise constraints.
"""

from __future__ import annotations

import concurrent.futures
import importlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Generic, TypeVar
from urllib.parse import urlsplit

from rung.base.errors import MissingDependency, ProviderFailed, SettingsError
from rung.base.events import Events
from rung.base.seeds import derive
from rung.engine.hosted.body import Body, completion_body, estimated_tokens, score_body
from rung.engine.hosted.failure import Failed, Failure, Unreadable
from rung.engine.hosted.pace import Pace
from rung.engine.hosted.purse import Bill, Purse, Spend, Wallet
from rung.engine.hosted.reply import parse, read_completion, read_scored, read_usage
from rung.engine.hosted.settings import HostedSettings
from rung.records.contracts import Capabilities, Completion, Request, Scored

__all__ = ["Hosted", "extra", "promised", "read_key"]

T = TypeVar("T", Completion, Scored)

_POLL_SECONDS = 0.5
_SHORTEST_KEY = 8
_HERE = ("localhost", "127.0.0.1", "::1")


@dataclass(frozen=True, slots=True)
class _Task(Generic[T]):
    """One request on its way: what to send, how to read the reply, and by what its answer is kept."""

    key: Hashable
    place: str
    body: Body
    read: Callable[[Mapping[str, Any]], T]


class _Abandoned(Exception):
    """Another request has ended the list; this one was not sent again."""


class Hosted:
    """Keeps the `Completer` promise over an endpoint.

    Answers that came are kept when a list of requests fails, and used when the same requests are asked for again: a
    provider is not paid twice.

    Args:
        settings: where, and under which limits.
        events: receives progress, spend and what was redacted.
        on_step: called with the tokens of each answer as it comes, and with 0 while waiting; what it raises ends
            `complete` once the requests under way are in.
        wallet: is asked before every request and pays for it.
        environment: where the key is looked up.
        clock: seconds, for rates and retries.
        sleep: how to wait; by default a wait that ends early when the list has failed.

    Raises:
        SettingsError: the key's variable is not set or holds no key; a key over plain http; a cap without a price.
        MissingDependency: the extra `hosted` is not installed.
    """

    def __init__(
        self,
        settings: HostedSettings,
        *,
        events: Events | None = None,
        on_step: Callable[[int], None] | None = None,
        wallet: Wallet | None = None,
        environment: Mapping[str, str] | None = None,
        clock: Callable[[], float] = time.monotonic,
        sleep: Callable[[float], None] | None = None,
    ) -> None:
        self.settings = settings
        key = read_key(settings, os.environ if environment is None else environment)
        # in a closure, where no representation looks; a local server's "none" is a word, not a secret
        self._secrets: Callable[[], tuple[str, ...]] = lambda: (key,) if len(key) >= _SHORTEST_KEY else ()
        self._wire = extra("wire").Wire(settings, key)
        self._retried = extra("retry").retried
        self._purse, self._pace = Purse(settings, wallet), Pace(settings.limits, clock)
        self._events, self._on_step = events or Events(), on_step or (lambda num_tokens: None)
        self._clock, self._sleep = clock, sleep
        self._kept: dict[Hashable, Any] = {}

    def __repr__(self) -> str:
        return f"Hosted({self.capabilities().name!r})"

    @property
    def spend(self) -> Spend:
        """What was sent and paid so far."""
        return self._purse.spend

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order.

        Raises:
            SettingsError, DataError: a request that cannot be done or may not be sent, before anything is sent.
            BudgetSpent: a cap has no room for the next request.
            ProviderFailed: a request failed for good.
        """
        tasks = [self._completion_task(request) for request in requests]
        self._log_redactions([task.body for task in tasks])
        return self._run(tasks)

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        """Log-probabilities of each continuation after its prompt, read from an echo.

        The server tokenises prompt and continuation together; where a token would span both, this fails.

        Raises:
            SettingsError: the settings do not say that the server can echo.
            DataError, BudgetSpent, ProviderFailed: as `complete`.
        """
        if not self.capabilities().score:
            raise SettingsError(
                "this endpoint is not known to score given text",
                place="hosted.score_by_echo",
                hint="set score_by_echo: true with api: completions, where the server echoes log-probabilities",
            )
        return self._run([self._score_task(p, c) for p, c in zip(prompts, continuations, strict=True)])

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """An estimate, 4 bytes of UTF-8 a token: the endpoint's tokenizer is not known here."""
        return [estimated_tokens(text, 4) for text in texts]

    def capabilities(self) -> Capabilities:
        """What the settings say of the endpoint; never that its model is clean."""
        return promised(self.settings)

    def release(self) -> None:
        """Close the connections; the completer cannot be used after."""
        self._wire.close()

    def _completion_task(self, request: Request) -> _Task[Completion]:
        body = completion_body(request, self.settings, self._secrets())
        place = f"request '{request.id}'"
        return _Task(_key(request), place, body, lambda payload: read_completion(payload, request, self.settings))

    def _score_task(self, prompt: str, continuation: str) -> _Task[Scored]:
        body = score_body(prompt, continuation, self.settings, self._secrets())
        return _Task((prompt, continuation), "score", body, lambda payload: read_scored(payload, continuation))

    def _run(self, tasks: Sequence[_Task[T]]) -> list[T]:
        unanswered = list({task.key: task for task in tasks if task.key not in self._kept}.values())
        stop = threading.Event()
        workers = min(self.settings.max_in_flight, max(1, len(unanswered)))
        try:
            with concurrent.futures.ThreadPoolExecutor(workers) as pool:
                futures = [pool.submit(self._one, task, stop) for task in unanswered]
                try:
                    self._wait(futures)
                finally:  # what is under way is paid for and comes in; nothing else is sent
                    stop.set()
                    pool.shutdown(wait=False, cancel_futures=True)
        finally:
            self._report()
        answers: list[T] = [self._kept[task.key] for task in tasks]
        for task in tasks:
            self._kept.pop(task.key, None)
        return answers

    def _wait(self, futures: Sequence[concurrent.futures.Future[T]]) -> None:
        """Raise the first failure as it comes; count, report and look for a stop request meanwhile."""
        pending, order = set(futures), {future: place for place, future in enumerate(futures)}
        while pending:
            done, pending = concurrent.futures.wait(pending, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for future in sorted(done, key=order.__getitem__):
                if isinstance(future.exception(), _Abandoned):
                    continue  # for another's failure, which is the one to tell
                self._on_step(len(future.result().token_ids))
            self._on_step(0)
            self._events.progress("generate", len(futures) - len(pending), len(futures), "requests")

    def _one(self, task: _Task[T], stop: threading.Event) -> T:
        """The answer to one task, kept; tried again as the settings say."""
        attempts = 0

        def attempt() -> T:
            """One more attempt, counted."""
            nonlocal attempts
            attempts += 1
            return self._attempt(task, stop, again=attempts > 1)

        try:
            answer: T = self._retried(
                attempt,
                self.settings.retry,
                jitter=derive(0, task.place),
                clock=self._clock,
                sleep=self._pause(stop),
            )
        except Failed as failed:
            stop.set()  # before another thread takes the next request
            raise self._ending(task, failed.failure, attempts) from None
        self._kept[task.key] = answer
        return answer

    def _attempt(self, task: _Task[T], stop: threading.Event, again: bool) -> T:
        upper = task.body.upper
        if delay := self._pace.delay(upper.prompt_tokens + upper.completion_tokens):
            self._pause(stop)(delay)
        if stop.is_set():
            raise _Abandoned
        with self._purse.paying(upper, again) as bill:
            reply = self._wire.send(task.body)
            if isinstance(reply, Failure):
                bill.free = not reply.charged
                raise Failed(reply)
            return self._read(task, reply, bill)

    def _pause(self, stop: threading.Event) -> Callable[[float], None]:
        def pause(seconds: float) -> None:
            """Wait, unless the list has failed meanwhile."""
            stop.wait(seconds)

        return self._sleep or pause

    def _read(self, task: _Task[T], reply: bytes, bill: Bill) -> T:
        try:
            payload = parse(reply)
            bill.usage = read_usage(payload)
            return task.read(payload)
        except Unreadable as error:
            raise Failed(Failure(str(error), error.retryable)) from error

    def _ending(self, task: _Task[T], failure: Failure, attempts: int) -> ProviderFailed:
        how_often = f", after {attempts} attempts" if attempts > 1 else ""
        return ProviderFailed(
            f"{failure.what}{how_often}",
            place=f"hosted:{self.settings.model}, {task.place}",
            hint=failure.hint or "answers that came are kept; ask again for the rest",
        )

    def _report(self) -> None:
        spend = self.spend
        for name in ("requests", "retries", "prompt_tokens", "completion_tokens", "money", "money_unsure"):
            self._events.metric(f"hosted/{name}", getattr(spend, name), spend.requests)

    def _log_redactions(self, bodies: Sequence[Body]) -> None:
        total: Counter[str] = Counter()
        for body in bodies:
            total.update(body.redacted)
        if total:
            self._events.log("replaced before sending", kinds=dict(sorted(total.items())))


def _key(request: Request) -> Hashable:
    """A constraint is a mapping, which nothing can be kept by; the order of a schema's keys counts."""
    return replace(request, constraint=None), json.dumps(request.constraint)


def promised(settings: HostedSettings) -> Capabilities:
    """What the settings say of an endpoint, without asking it."""
    return Capabilities(
        name=f"hosted:{settings.model}",
        logprobs=settings.logprobs != "off",
        score=settings.score_by_echo and settings.api == "completions",
        constraints=False,
        messages=settings.api == "chat",
        clean=False,
        max_context=settings.max_context,
    )


def extra(module: str) -> Any:
    """A module of this folder that brings packages of the extra `hosted`.

    Raises:
        MissingDependency: they are not installed.
    """
    try:
        return importlib.import_module(f"rung.engine.hosted.{module}")
    except ModuleNotFoundError as error:
        if error.name and error.name.startswith("rung."):
            raise
        raise MissingDependency(
            f"a hosted model needs the package '{error.name}'", place="hosted", hint="pip install 'rung[hosted]'"
        ) from error


def read_key(settings: HostedSettings, environment: Mapping[str, str]) -> str:
    """The key that the settings name a variable for; empty where they name none.

    Raises:
        SettingsError: the variable is not set or holds no key, or the key would travel unencrypted.
    """
    if not settings.key_variable:
        return ""
    key = environment.get(settings.key_variable, "").strip()
    if not key or not key.isascii() or not key.isprintable() or " " in key:
        raise SettingsError(
            f"the environment variable {settings.key_variable} " + ("holds no usable key" if key else "is not set"),
            place="hosted.key_variable",
            hint=f"export {settings.key_variable}=...; it is read there and written nowhere",
        )
    address = urlsplit(settings.address)
    if address.scheme == "http" and address.hostname not in _HERE and not settings.plain_http:
        raise SettingsError(
            "the key would travel unencrypted",
            place="hosted.address",
            hint="use https, or plain_http: true in a network you trust",
        )
    return key
