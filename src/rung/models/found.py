"""What a source hands to the loader: a folder in the published layout, or a network made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from rung.base.errors import ModelError
from rung.base.fingerprint import content_hash
from rung.models.cache import Cache
from rung.models.network import Network
from rung.models.published import weight_files
from rung.records.tokenizer import Tokenizer

__all__ = ["Found", "Made", "folder_identity"]


@dataclass(frozen=True)
class Made:
    """A network with random weights and its tokenizer."""

    network: Network
    family: str
    tokenizer: Tokenizer


@dataclass(frozen=True)
class Found:
    """Where a model is.

    `content_id` hashes what its weights are. `folder` is set, or else `make`. `weights` (one safetensors file) replaces
    the folder's, and `adapters` (folders in peft's format) are then merged in order. `unjudged` says why behaviour
    sentinels do not apply.
    """

    content_id: str
    folder: Path | None = None
    make: Callable[[], Made] | None = None
    weights: Path | None = None
    adapters: tuple[Path, ...] = ()
    unjudged: str = ""
    notes: tuple[str, ...] = ()


def folder_identity(folder: Path, cache: Cache) -> str:
    """Hash over the config and the weights of a folder; where it lies and what its files are called stays out.

    Raises:
        ModelError: no config.json or no weights.
    """
    config = folder / "config.json"
    if not config.is_file():
        what = "the folder has no config.json" if folder.is_dir() else "there is no such folder"
        raise ModelError(what, place=str(folder), hint="point to the folder that has the model's files")
    return content_hash(sorted(cache.hash_of(path) for path in [config, *weight_files(folder)]))
