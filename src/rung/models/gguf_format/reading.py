"""A GGUF file as typed values: metadata by key, tensors dequantised to float32.

Format: https://github.com/ggml-org/ggml/blob/master/docs/gguf.md. Parsing and dequantisation are the gguf package's.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gguf
import numpy

from rung.base.errors import ModelError

__all__ = ["GgufFile"]

MAGIC = b"GGUF"


class GgufFile:
    """An opened GGUF file.

    Raises:
        ModelError: missing, not a GGUF file, or shorter than its header promises.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        _check_magic(path)
        try:
            self._reader = gguf.GGUFReader(str(path))
        except (ValueError, KeyError, IndexError, OSError, OverflowError) as error:
            raise ModelError(
                f"the GGUF file is damaged or cut short: {error}", place=str(path), hint="fetch the file again"
            ) from error

    def get(self, key: str, default: Any = None) -> Any:
        """A metadata value: number, flag, text, or a list of these."""
        field = self._reader.fields.get(key)
        if field is None:
            return default
        is_array = field.types[0] == gguf.GGUFValueType.ARRAY
        kind = field.types[-1]
        values = [_value(field.parts[index], kind) for index in field.data]
        return values if is_array else values[0]

    def need(self, key: str) -> Any:
        """`get` for a key that must be there."""
        value = self.get(key)
        if value is None:
            raise ModelError(f"the GGUF file has no '{key}'", place=str(self.path), hint="it may be of an older format")
        return value

    def shape(self, name: str) -> tuple[int, ...]:
        """Rows first; empty when there is no such tensor."""
        found = [t for t in self._reader.tensors if t.name == name]
        return tuple(int(size) for size in reversed(found[0].shape)) if found else ()

    def names(self) -> list[str]:
        """Names of all tensors."""
        return [str(tensor.name) for tensor in self._reader.tensors]

    def tensors(self) -> Iterator[tuple[str, numpy.ndarray[Any, Any]]]:
        """(name, float32 array, rows first), one at a time so that only one is held unpacked."""
        for tensor in self._reader.tensors:
            try:
                unpacked = gguf.quants.dequantize(tensor.data, tensor.tensor_type)
            except NotImplementedError as error:
                raise ModelError(
                    f"tensor '{tensor.name}' is packed as {tensor.tensor_type.name}, which cannot be unpacked",
                    place=str(self.path),
                    hint="use a file quantised as Q8_0, Q4_K_M or F16",
                ) from error
            shape = tuple(int(size) for size in reversed(tensor.shape))
            yield str(tensor.name), numpy.ascontiguousarray(unpacked.reshape(shape), dtype=numpy.float32)


def _check_magic(path: Path) -> None:
    if not path.is_file():
        raise ModelError("there is no such file", place=str(path), hint="check the path after 'gguf:'")
    with path.open("rb") as file:
        magic = file.read(4)
    if magic != MAGIC:
        raise ModelError(f"not a GGUF file: it starts with {magic!r}", place=str(path), hint="check the path")


def _value(part: Any, kind: Any) -> Any:
    if kind == gguf.GGUFValueType.STRING:
        return bytes(part).decode("utf-8", errors="replace")
    return part[0].item()
