"""Secrets of the environment: known by the names of their variables, replaced wherever text leaves the process.

A variable named like a secret (`..._KEY`, `..._TOKEN`, `..._PASSWORD`, ...) holds one when its value has eight
characters or more; shorter values are words that would be cut out of innocent text.
"""

from __future__ import annotations

import os
import re
from collections.abc import Mapping, Sequence
from typing import Any

__all__ = ["MARK", "redact", "redact_all", "secret_values"]

MARK = "[secret]"
_NAME = re.compile(r"(KEY|TOKEN|SECRET|PASSWORD|PASSWD|CREDENTIAL)S?$", re.IGNORECASE)
_SHORTEST = 8


def secret_values(environment: Mapping[str, str] | None = None) -> list[str]:
    """Values of the secrets, longest first, so that one that contains another is replaced whole."""
    values = os.environ if environment is None else environment
    found = {value for name, value in values.items() if len(value) >= _SHORTEST and _NAME.search(name)}
    return sorted(found, key=len, reverse=True)


def redact(text: str, environment: Mapping[str, str] | None = None) -> str:
    """`text` with every secret of the environment replaced by `[secret]`."""
    return _without(text, secret_values(environment))


def redact_all(value: Any, environment: Mapping[str, str] | None = None) -> Any:
    """`redact` for every text inside mappings and sequences, keys included; other values stay as they are."""
    return _walk(value, secret_values(environment))


def _walk(value: Any, secrets: Sequence[str]) -> Any:
    if isinstance(value, str):
        return _without(value, secrets)
    if isinstance(value, Mapping):
        return {_walk(key, secrets): _walk(item, secrets) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(_walk(item, secrets) for item in value) if type(value) in (list, tuple) else value
    return value


def _without(text: str, secrets: Sequence[str]) -> str:
    for secret in secrets:
        text = text.replace(secret, MARK)
    return text
