"""Identity is what, never where: canonical text, content hashes, and the provenance of rung's own code."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import subprocess
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

import pydantic

import rung
from rung.base.settings import Settings

__all__ = ["Code", "canonical", "code", "content_hash", "differing", "hash_file", "plain"]


class Code(Settings):
    """Which rung wrote something: commit of the checkout, source hash, and whether the source was clean."""

    commit: str
    branch: str
    dirty: bool
    source_hash: str

    @property
    def known(self) -> bool:
        """Whether a gate may trust this provenance without an explicit flag."""
        return self.commit != "unknown" and not self.dirty


def plain(value: Any) -> Any:
    """`value` as JSON types; dataclasses and pydantic models become objects, tuples lists, paths text."""
    if isinstance(value, pydantic.BaseModel):
        return plain(value.model_dump(mode="json"))
    if dataclasses.is_dataclass(value) and not isinstance(value, type):
        return {f.name: plain(getattr(value, f.name)) for f in dataclasses.fields(value)}
    if isinstance(value, Mapping):
        return {str(key): plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [plain(item) for item in value]
    if isinstance(value, (set, frozenset)):
        return sorted(plain(item) for item in value)
    return str(value) if isinstance(value, Path) else value


def canonical(value: Any) -> str:
    """The one JSON text of `value`: sorted keys, no spaces, no NaN."""
    return json.dumps(plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=False, allow_nan=False)


def content_hash(value: Any) -> str:
    """SHA-256 of the canonical text (or of the bytes given), hexadecimal."""
    data = value if isinstance(value, bytes) else canonical(value).encode()
    return hashlib.sha256(data).hexdigest()


def hash_file(path: Path) -> str:
    """SHA-256 of a file's bytes, hexadecimal."""
    digest = hashlib.sha256()
    with path.open("rb") as file:
        while block := file.read(1 << 20):
            digest.update(block)
    return digest.hexdigest()


def differing(old: Any, new: Any, path: str = "") -> list[str]:
    """Every leaf that differs between two plain values, as `path: old -> new`."""
    if isinstance(old, dict) and isinstance(new, dict):
        rows = []
        for key in sorted(old.keys() | new.keys()):
            rows += differing(old.get(key), new.get(key), f"{path}.{key}" if path else key)
        return rows
    return [] if old == new else [f"{path or 'value'}: {json.dumps(old)[:80]} -> {json.dumps(new)[:80]}"]


@lru_cache(maxsize=1)
def code() -> Code:
    """Provenance of the running rung. `dirty` is about rung's own source files only, never about a user's data."""
    root = Path(rung.__file__).parent
    digest = hashlib.sha256()
    for path in sorted(p for p in root.rglob("*") if p.is_file() and "__pycache__" not in p.parts):
        digest.update(str(path.relative_to(root)).encode() + b"\0" + path.read_bytes() + b"\0")
    commit = _git(root, "rev-parse", "HEAD") if _git(root, "ls-files", "__init__.py") else ""
    branch = _git(root, "rev-parse", "--abbrev-ref", "HEAD") if commit else ""
    dirty = bool(_git(root, "status", "--porcelain", "--", ".")) if commit else False
    return Code(commit=commit or "unknown", branch=branch or "unknown", dirty=dirty, source_hash=digest.hexdigest())


def _git(root: Path, *arguments: str) -> str:
    try:
        done = subprocess.run(
            ["git", "-C", str(root), *arguments], capture_output=True, text=True, timeout=20, check=False
        )
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
