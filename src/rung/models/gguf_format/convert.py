"""A GGUF file as a folder in the published layout: converted once, kept in the cache under the file's content hash."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import safetensors.numpy

from rung.models.cache import Cache
from rung.models.gguf_format import vocabulary, weights
from rung.models.gguf_format.reading import GgufFile

__all__ = ["CONVERTER_VERSION", "convert", "converted"]

# raised by hand when the same file comes to convert differently
CONVERTER_VERSION = 1


def converted(source_hash: str, path: Path, cache: Cache) -> Path:
    """The folder for the file at `path`; a second call, from any process, finds it there."""
    return cache.folder("models", key(source_hash), lambda folder: convert(path, folder))


def key(source_hash: str) -> str:
    """The cache key of a file with this SHA-256."""
    return f"gguf-{CONVERTER_VERSION}-{source_hash[:40]}"


def convert(path: Path, folder: Path) -> None:
    """Write config.json, tokenizer files and float32 weights of the GGUF file into `folder`.

    Raises:
        ModelError: damaged, or of an architecture or tokenizer that is not converted.
    """
    file = GgufFile(path)
    config = weights.config(file)
    tokenizer = vocabulary.tokenizer(file)
    beside: dict[str, Any] = {"chat_template": vocabulary.chat_template(file)}
    safetensors.numpy.save_file(dict(weights.weights(file)), folder / "model.safetensors", {"format": "pt"})
    tokenizer.save(str(folder / "tokenizer.json"), pretty=False)
    (folder / "tokenizer_config.json").write_text(json.dumps(beside), encoding="utf-8")
    (folder / "config.json").write_text(json.dumps(config, indent=2), encoding="utf-8")
