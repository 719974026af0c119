"""Who may use the server: whoever shows its key. The key is compared in constant time and never shown again."""

from __future__ import annotations

import hmac
import secrets
from collections.abc import Mapping

from rung.app.server.settings import ServeSettings, is_loopback
from rung.base.errors import SettingsError

__all__ = ["Key", "find_key"]

_SHORTEST = 16


class Key:
    """A secret that can be compared and not be printed; `Key("")` lets everybody in."""

    def __init__(self, value: str) -> None:
        self._value = value.encode()

    def __repr__(self) -> str:
        return "Key()"

    def accepts(self, header: bytes) -> bool:
        """Whether the value of an Authorization header is this key, as a bearer token."""
        if not self._value:
            return True
        scheme, _, shown = header.partition(b" ")
        return hmac.compare_digest(shown.strip(), self._value) and scheme.lower() == b"bearer"


def find_key(settings: ServeSettings, environment: Mapping[str, str]) -> tuple[Key, str]:
    """The key from the environment, else a random one; the second value is what to print once, empty if nothing.

    Raises:
        SettingsError: no key is wanted on an address that others can reach, or the key is too short to be one.
    """
    if settings.no_key:
        if not is_loopback(settings.host):
            raise SettingsError(
                f"others can reach {settings.host}, so the server needs a key there",
                place="--no-key",
                hint="leave out --no-key, or listen on 127.0.0.1",
            )
        return Key(""), ""
    value = environment.get(settings.key_env, "").strip()
    if not value:
        made = secrets.token_urlsafe(32)
        return Key(made), made
    if len(value) < _SHORTEST:
        raise SettingsError(
            f"the key is shorter than {_SHORTEST} characters", place=settings.key_env, hint="openssl rand -hex 32"
        )
    return Key(value), ""
