"""What a source hands to the loader: a folder in the published layout, or a network made on the spot.

Finding a model brings no torch: recipes are planned and checked by what their model is, without loading it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from rung.base.errors import ModelError, SettingsError
from rung.base.fingerprint import content_hash
from rung.base.lookup import known, lookup
from rung.models.cache import Cache
from rung.records.tokenizer import Tokenizer

if TYPE_CHECKING:
    from rung.models.network import Network

__all__ = ["Found", "Made", "find", "folder_identity", "weight_files"]


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


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a folder, in name order.

    Raises:
        ModelError: there are none.
    """
    found = sorted(folder.glob("*.safetensors"))
    if not found:
        raise ModelError(
            "the folder has no safetensors weights",
            place=str(folder),
            hint="pickled weights (.bin, .pt) are never opened; convert them with transformers' save_pretrained",
        )
    return found


def find(source: str, cache: Cache) -> Found:
    """What `source` (KIND:REST) names, wherever it lies; nothing is loaded.

    Raises:
        SettingsError: no kind, or an unknown one.
        ModelError: the model cannot be found.
    """
    kind, colon, rest = source.partition(":")
    if not colon:
        raise SettingsError(
            f"'{source}' does not say what kind of source it is",
            place="model",
            hint=f"write KIND:{source}, with KIND one of {', '.join(known('models.sources'))}",
        )
    part = lookup("models.sources", kind, "model")
    found: Found = part(part.parse(rest), cache=cache).find()
    return found
