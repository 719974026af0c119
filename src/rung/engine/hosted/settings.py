"""Settings of the hosted completer, apart from it: a recipe is checked without the client's packages.

Neither a key nor an address that carries one is ever accepted here, because settings are written beside every output.
"""

from __future__ import annotations

import re
from typing import Literal
from urllib.parse import urlsplit

import pydantic

from rung.base.errors import SettingsError
from rung.base.prices import Price
from rung.base.settings import Field, Settings
from rung.engine.redact import KINDS, Kind

__all__ = ["HostedSettings", "LimitSettings", "PrivacySettings", "RetrySettings", "SentField"]

SentField = Literal[
    "model", "prompt", "messages", "max_tokens", "max_completion_tokens", "temperature", "top_p", "top_k",
    "repetition_penalty", "stop", "seed", "logprobs", "top_logprobs", "echo", "response_format",
]  # fmt: skip

_STANDARD: tuple[SentField, ...] = (
    "model", "prompt", "messages", "max_tokens", "temperature", "top_p", "stop", "seed", "logprobs", "top_logprobs",
    "echo",
)  # fmt: skip


class RetrySettings(Settings):
    """How long a failing request is tried again. Waits double from `base_seconds` to `cap_seconds`, half of each
    random; a server's Retry-After is kept where it is longer."""

    attempts: int = Field(6, ge=1, le=100, description="attempts of one request, the first included")
    base_seconds: float = Field(1.0, gt=0, le=600, description="wait before the second attempt")
    cap_seconds: float = Field(60.0, gt=0, le=3600, description="longest wait of our own between attempts")
    seconds: float = Field(600.0, ge=0, le=86400, description="no attempt begins later than this after the first")


class LimitSettings(Settings):
    """What may be sent, received and spent; checked before a request leaves."""

    requests_per_minute: float | None = Field(None, gt=0, description="requests are spaced evenly to stay under it")
    tokens_per_minute: float | None = Field(None, gt=0, description="prompt plus new tokens, by the upper estimate")
    requests: int | None = Field(None, ge=0, description="cap on requests of this completer, retries included")
    money: float | None = Field(None, ge=0, description="cap on the cost of this completer, in the prices' currency")
    request_characters: int = Field(200_000, ge=1, le=100_000_000, description="longest request, as JSON")
    response_bytes: int = Field(16 << 20, ge=1024, le=1 << 30, description="longest reply that is read")


class PrivacySettings(Settings):
    """What happens to personal data and secrets in a request."""

    mode: Literal["redact", "block", "off"] = Field("redact", description="replace them, refuse the request, or send")
    kinds: tuple[Kind, ...] = Field(KINDS, description="what is looked for")


class HostedSettings(Settings):
    """Which endpoint, what it can do, and the limits of talking to it."""

    address: str = Field(min_length=1, description="base address such as https://host/v1, without user or query")
    model: str = Field(min_length=1, description="the model's name at that address")
    api: Literal["completions", "chat"] = Field("completions", description="text goes to one, messages to the other")
    key_variable: str = Field("", description="environment variable that holds the key; empty sends none")
    plain_http: bool = Field(False, description="allow a key over http to another machine")
    timeout_seconds: float = Field(120.0, gt=0, le=3600, description="limit of one attempt")
    max_in_flight: int = Field(8, ge=1, le=256, description="requests under way at once")
    max_context: int = Field(0, ge=0, description="prompt plus new tokens that the model takes; 0: unknown")
    fields: tuple[SentField, ...] = Field(
        _STANDARD, description="request fields that may be sent; name response_format where the server obeys it"
    )
    logprobs: Literal["off", "raw", "sampled"] = Field(
        "off", description="log-probabilities the server gives: of the unmodified model, or after sampling settings"
    )
    score_by_echo: bool = Field(False, description="the server echoes prompts with log-probabilities (completions)")
    accepts_token_ids: bool = Field(False, description="the server takes token ids as a prompt (completions)")
    retry: RetrySettings = Field(default_factory=RetrySettings, description="attempts, back-off and their time limit")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="rates, sizes and caps")
    prices: dict[str, Price] = Field(default_factory=dict, description="by model name, before the recipe's table")
    privacy: PrivacySettings = Field(
        default_factory=PrivacySettings, description="personal data and secrets in requests"
    )

    @pydantic.field_validator("address", mode="before")
    @classmethod
    def _address_is_bare(cls, value: object) -> object:
        """Raised as our own error: pydantic's would show the value, which may hold a password."""
        parts = urlsplit(value if isinstance(value, str) else "")
        if parts.scheme not in ("http", "https") or not parts.hostname or "@" in parts.netloc:
            raise SettingsError("the address is not https://HOST/PATH", place="hosted.address", hint=_NO_SECRET)
        if parts.query or parts.fragment:
            raise SettingsError("the address has a query or fragment", place="hosted.address", hint=_NO_SECRET)
        return value

    @pydantic.field_validator("key_variable", mode="before")
    @classmethod
    def _a_name_is_not_a_key(cls, value: object) -> object:
        """Raised as our own error: pydantic's would show the value, which may be the key itself."""
        if not isinstance(value, str) or not re.fullmatch(r"(?:[A-Z_][A-Z0-9_]{0,63})?", value):
            raise SettingsError(
                "this is not the name of an environment variable", place="hosted.key_variable", hint=_NO_SECRET
            )
        return value


_NO_SECRET = "put the key into an environment variable and write its NAME as key_variable"
