"""Our own server (`rung serve`) as a completer: what it answers is what its engine would give in this process.

It speaks `/v1/rung/...` instead of OpenAI's shapes, which leave out what records hold: the text after a stop string,
token ids, exact token counts, scores of continuations that were tokenised apart. Nothing is charged.

What it does not do: it never splits a list of pairs to score, because which pairs share a forward decides the last
digits; a list longer than the server takes in one body fails, and says which option raises that.
"""

from __future__ import annotations

import concurrent.futures
import os
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeVar

import pydantic

from rung.base.errors import ModelError, ProviderFailed, SettingsError
from rung.base.events import Events
from rung.base.fingerprint import plain
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.engine.hosted.completer import extra, read_key
from rung.engine.hosted.failure import Failed, Failure
from rung.engine.hosted.settings import HostedSettings, RetrySettings
from rung.records.contracts import Capabilities, Completion, Request, Scored

__all__ = ["Served", "ServedSettings"]

_POLL_SECONDS = 0.5
# Requests of one body: few enough that an answer comes within seconds, and a stop request is heard.
_AT_ONCE = 16
R = TypeVar("R", bound=pydantic.BaseModel)


class ServedSettings(Settings):
    """Which server."""

    address: str = Field("http://127.0.0.1:8000/v1", min_length=1, description="what `rung serve` printed")
    key_variable: str = Field("RUNG_SERVE_KEY", description="environment variable that holds its key; empty: --no-key")
    plain_http: bool = Field(False, description="allow the key over http to another machine")
    timeout_seconds: float = Field(600.0, gt=0, le=3600, description="limit of one attempt")
    max_in_flight: int = Field(16, ge=1, le=256, description=f"bodies of {_AT_ONCE} requests under way at once")
    retry: RetrySettings = Field(default_factory=RetrySettings, description="attempts, back-off and their time limit")


class _Shown(pydantic.BaseModel):
    """What the server says of its model."""

    model: str
    able: Capabilities
    facts: dict[str, Any]


class _Completed(pydantic.BaseModel):
    completions: list[Completion]


class _ScoredPairs(pydantic.BaseModel):
    scored: list[Scored]


class _Counted(pydantic.BaseModel):
    counts: list[int]


class Served:
    """Keeps the `Completer` promise over `rung serve`.

    Args:
        settings: where.
        events: receives progress.
        on_step: called with the tokens of answers as they come, and with 0 while waiting; what it raises ends
            `complete`.
        environment: where the key is looked up.

    Raises:
        SettingsError: no key in the variable, or a server that is not `rung serve`.
        MissingDependency: the extra `hosted` is not installed.
        ProviderFailed: nothing answers there.
    """

    def __init__(
        self,
        settings: ServedSettings,
        *,
        events: Events | None = None,
        on_step: Callable[[int], None] | None = None,
        environment: Mapping[str, str] | None = None,
    ) -> None:
        said = plain(settings)
        shared = {name: said[name] for name in ("address", "key_variable", "plain_http", "timeout_seconds", "retry")}
        self._settings, endpoint = settings, HostedSettings.model_validate({**shared, "model": "rung"})
        key = read_key(endpoint, os.environ if environment is None else environment)
        self._wire = extra("wire").Wire(endpoint, key)
        self._retried = extra("retry").retried
        self._events, self._on_step = events or Events(), on_step or (lambda num_tokens: None)
        self._shown = self._model()

    @property
    def facts(self) -> dict[str, Any]:
        """What the server's loader said: source, content, precision and report, as a manifest holds them."""
        return self._shown.facts

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """One completion per request, in order.

        Raises:
            ProviderFailed: a request was refused, or the server failed for good.
        """
        bodies = [requests[start : start + _AT_ONCE] for start in range(0, len(requests), _AT_ONCE)]
        pool = concurrent.futures.ThreadPoolExecutor(self._settings.max_in_flight)
        try:
            futures = [pool.submit(self._complete, body) for body in bodies]
            self._wait(futures, len(requests))
            return [completion for future in futures for completion in future.result()]
        finally:
            pool.shutdown(wait=False, cancel_futures=True)

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        """Log-probabilities of each continuation after its prompt; the two are tokenised apart.

        Raises:
            ProviderFailed: refused, too long for one body, or the server failed for good.
        """
        fields = {"prompts": list(prompts), "continuations": list(continuations)}
        return self._post("/rung/score", fields, _ScoredPairs).scored if prompts else []

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """Length of each text in the model's tokens, start token not counted.

        Raises:
            ProviderFailed: the server failed for good.
        """
        return self._post("/rung/count", {"texts": list(texts)}, _Counted).counts if texts else []

    def capabilities(self) -> Capabilities:
        """What the engine over there can do; its model keeps its own name."""
        return self._shown.able

    def release(self) -> None:
        """Close the connections; the completer cannot be used after, and the server goes on."""
        self._wire.close()

    def check_weights(self, content_id: str, source: str) -> None:
        """Refuse a server of other weights than the recipe's model, which are what its outputs are known by.

        Raises:
            ModelError: other weights, or a server that does not know which it has.
        """
        theirs = str(self.facts.get("content_id", ""))
        if theirs != content_id:
            raise ModelError(
                f"the server at {self._settings.address} has '{self._shown.model}' ({theirs[:12] or 'unknown'}), "
                f"the recipe's model is '{source}' ({content_id[:12]})",
                place="served.address",
                hint=f"rung serve {source} --clean",
            )

    def _model(self) -> _Shown:
        try:
            return self._read(self._lasting(lambda: self._wire.get("/rung/model"), "model"), _Shown)
        except ProviderFailed as error:
            if "answered 404" not in error.message:
                raise
            raise SettingsError(
                f"what answers at {self._settings.address} is no `rung serve`",
                place="served.address",
                hint="start one, or use kind: hosted for another server",
            ) from error

    def _complete(self, requests: Sequence[Request]) -> list[Completion]:
        return self._post("/rung/complete", {"requests": plain(list(requests))}, _Completed).completions

    def _wait(self, futures: Sequence[concurrent.futures.Future[list[Completion]]], count: int) -> None:
        """Raise the first failure as it comes; count, report and look for a stop request meanwhile."""
        pending, done_so_far = set(futures), 0
        while pending:
            done, pending = concurrent.futures.wait(pending, _POLL_SECONDS, concurrent.futures.FIRST_COMPLETED)
            for answers in [future.result() for future in done]:
                done_so_far += len(answers)
                self._on_step(sum(len(one.token_ids) for one in answers))
            self._on_step(0)
            self._events.progress("generate", done_so_far, count, "requests")

    def _post(self, path: str, fields: Mapping[str, Any], form: type[R]) -> R:
        return self._read(self._lasting(lambda: self._wire.post(path, fields), path), form)

    def _lasting(self, ask: Callable[[], bytes | Failure], what: str) -> bytes:
        """The reply, after as many attempts as the settings allow."""

        def attempt() -> bytes:
            """One attempt."""
            reply = ask()
            if isinstance(reply, Failure):
                raise Failed(reply)
            return reply

        try:
            found: bytes = self._retried(
                attempt, self._settings.retry, jitter=derive(0, what), clock=time.monotonic, sleep=time.sleep
            )
            return found
        except Failed as failed:
            hint = failed.failure.hint or "is `rung serve` running there? its limits are options of it"
            raise ProviderFailed(failed.failure.what, place=f"served: {what}", hint=hint) from None

    def _read(self, reply: bytes, form: type[R]) -> R:
        try:
            return form.model_validate_json(reply)
        except pydantic.ValidationError as error:
            raise ProviderFailed(
                "the server answered in another form than this version of rung's",
                place="served",
                hint="run the same version on both sides",
            ) from error
