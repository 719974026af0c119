"""Errors as OpenAI's interface shapes them, and which named ending has which status."""

from __future__ import annotations

import pydantic
from starlette.responses import Response

from rung.base.errors import DataError, RungError, SettingsError
from rung.engine.tickets import Expired, QueueFull, Stopping

__all__ = ["ErrorBody", "Refusal", "refusal_of"]


class ErrorDetail(pydantic.BaseModel):
    """What went wrong: `param` names the field, `code` the kind for programs."""

    message: str
    type: str
    param: str | None = None
    code: str


class ErrorBody(pydantic.BaseModel):
    """The object that every status from 400 on carries."""

    error: ErrorDetail


class Refusal(Exception):
    """A request that gets an error for an answer. `retry_after` in seconds, 0 for none."""

    def __init__(self, status: int, code: str, message: str, *, param: str | None = None, retry_after: int = 0) -> None:
        super().__init__(message)
        self.status, self.code, self.message = status, code, message
        self.param, self.retry_after = param, retry_after

    def body(self) -> str:
        """The error object as JSON."""
        kind = "invalid_request_error" if self.status < 500 and self.status != 429 else "server_error"
        kind = "rate_limit_error" if self.status == 429 else kind
        detail = ErrorDetail(message=self.message, type=kind, param=self.param, code=self.code)
        return ErrorBody(error=detail).model_dump_json()

    def response(self) -> Response:
        """The whole answer; a refused body is not read to its end, so its connection is of no more use."""
        headers = {"Retry-After": str(self.retry_after)} if self.retry_after else {}
        if self.status == 401:
            headers["WWW-Authenticate"] = "Bearer"
        if self.status == 413:
            headers["Connection"] = "close"
        return Response(self.body(), self.status, headers, "application/json")


def refusal_of(error: RungError) -> Refusal:
    """The status of a named ending: 400 what the client can mend, 429 and 503 what time mends, 504 too slow, 500."""
    message = error.message + (f" ({error.hint})" if error.hint else "")
    if isinstance(error, (SettingsError, DataError)):
        return Refusal(400, error.code, message)
    if isinstance(error, QueueFull):
        return Refusal(429, error.code, message, retry_after=1)
    if isinstance(error, Stopping):
        return Refusal(503, error.code, message, retry_after=10)
    return Refusal(504 if isinstance(error, Expired) else 500, error.code, message)
