"""Settings of the server, apart from it: the command line is checked without FastAPI and without torch."""

from __future__ import annotations

import ipaddress

from rung.base.settings import Field, Settings

__all__ = ["LimitSettings", "ServeSettings", "is_loopback"]


class LimitSettings(Settings):
    """What a single request may ask for; more is refused before any work."""

    body_bytes: int = Field(1 << 20, ge=1024, description="largest request body")
    body_seconds: float = Field(30.0, gt=0, description="how long a body may take to arrive")
    prompts: int = Field(64, ge=1, description="prompts of one request")
    choices: int = Field(16, ge=1, description="answers to one prompt (`n`)")
    stop_strings: int = Field(16, ge=0, description="stop strings of one request")
    new_tokens: int = Field(1024, ge=1, description="new tokens of one answer; what a chat gets that names no limit")
    prompt_tokens: int = Field(0, ge=0, description="tokens of one prompt; 0 is what the model's context has room for")
    request_seconds: float = Field(300.0, gt=0, description="after this long a request ends with status 504")


class ServeSettings(Settings):
    """Where the server listens, whom it lets in, and how it stops."""

    host: str = Field("127.0.0.1", min_length=1, description="address to listen on; loopback unless told otherwise")
    port: int = Field(8000, ge=0, le=65535, description="port; 0 takes a free one")
    key_env: str = Field("RUNG_SERVE_KEY", min_length=1, description="environment variable that holds the key")
    no_key: bool = Field(False, description="let everybody in who can reach the address; on loopback only")
    stop_seconds: int = Field(30, ge=1, description="how long running requests may still take when the server stops")
    sample_seconds: float = Field(10.0, gt=0, description="seconds between two samples of speed, memory and device")
    limits: LimitSettings = Field(default_factory=LimitSettings, description="what a single request may ask for")


def is_loopback(host: str) -> bool:
    """Whether only this machine can reach `host`; a name other than localhost counts as reachable."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
