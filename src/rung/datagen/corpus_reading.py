"""Files as rows: text, JSON lines, CSV, TSV and Parquet, plain or compressed (.gz, .zst), never a whole file in memory.

What cannot be read is not passed over: each broken place comes out as a `Drop` with its reason ("broken_utf8",
"broken_json", "broken_csv", "over_long") and the reading goes on after it. A file that ends in the middle of its
compression, or is no Parquet at all, ends the reading: that is a damaged file and not a broken line.
"""

from __future__ import annotations

import contextlib
import csv
import gzip
import importlib
import io
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO, cast

import zstandard

from rung.base.errors import DataError, MissingDependency
from rung.records.types import Drop

__all__ = ["SUFFIXES", "Layout", "Row", "excerpt", "read_rows"]

TEXT = "text"
SUFFIXES: dict[str, str] = {
    ".txt": "text", ".md": "text", ".jsonl": "json", ".ndjson": "json", ".json": "json", ".csv": "csv", ".tsv": "csv",
    ".parquet": "parquet",
}  # fmt: skip
_COMPRESSED = (".gz", ".zst")
_BLOCK = 1 << 20
_EXCERPT = 120
_BATCH = 64


@dataclass(frozen=True, slots=True)
class Row:
    """One record of a file: `place` is file and line, `values` its fields (`text` alone for a file of text)."""

    place: str
    values: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Layout:
    """How files are to be read. `separator` is a line between two texts of one file (empty: a file is one text);
    `longest` bounds a line or a text, in bytes; `columns` are all that is read of a Parquet file (empty: every one)."""

    separator: str = ""
    longest: int = 1 << 24
    columns: tuple[str, ...] = ()


def read_rows(path: Path, name: str, layout: Layout) -> Iterator[Row | Drop]:
    """Every row of a file, in order. `name` is what places say; the format follows from the file's ending, and what is
    neither known nor compressed is text.

    Raises:
        DataError: the file cannot be opened, or is damaged as a whole.
        MissingDependency: Parquet without pyarrow.
    """
    kind = SUFFIXES.get(_ending(path), TEXT)
    try:
        if kind == "parquet":
            yield from _parquet(path, name, layout)
            return
        with _opened(path) as file:
            reader = {"json": _json_lines, "csv": _csv, TEXT: _texts}[kind]
            yield from reader(file, name, layout)
    except (OSError, EOFError, zstandard.ZstdError) as error:
        raise DataError(f"cannot read the file: {error}", place=name) from error


def excerpt(data: bytes | str) -> str:
    """The beginning of something, for a message."""
    text = data[: 4 * _EXCERPT].decode("utf-8", "replace") if isinstance(data, bytes) else data
    return text[:_EXCERPT]


def _ending(path: Path) -> str:
    suffixes = [suffix.lower() for suffix in path.suffixes]
    while suffixes and suffixes[-1] in _COMPRESSED:
        suffixes.pop()
    return suffixes[-1] if suffixes else ""


@contextlib.contextmanager
def _opened(path: Path) -> Iterator[BinaryIO]:
    with contextlib.ExitStack() as stack:
        file: Any = stack.enter_context(path.open("rb"))
        if path.suffix == ".gz":
            file = stack.enter_context(gzip.GzipFile(fileobj=file))
        elif path.suffix == ".zst":
            unpacked = zstandard.ZstdDecompressor().stream_reader(file, read_across_frames=True)
            file = stack.enter_context(io.BufferedReader(cast("Any", unpacked), _BLOCK))
        yield cast("BinaryIO", file)


def _lines(file: BinaryIO, name: str, longest: int) -> Iterator[tuple[str, bytes | Drop]]:
    """(place, line) of a file; a line beyond `longest` bytes is a drop and never held."""
    number = 0
    while line := file.readline(longest + 1):
        number += 1
        place = f"{name}:{number}"
        if len(line) <= longest or line.endswith(b"\n"):
            yield place, line
            continue
        start, size = line, len(line)
        while line and not line.endswith(b"\n"):
            line = file.readline(_BLOCK)
            size += len(line)
        yield place, _drop(place, start, "over_long", num_bytes=size)


def _json_lines(file: BinaryIO, name: str, layout: Layout) -> Iterator[Row | Drop]:
    for place, line in _lines(file, name, layout.longest):
        if isinstance(line, Drop):
            yield line
        elif line.strip():
            yield _parsed(line, place)


def _parsed(line: bytes, place: str) -> Row | Drop:
    try:
        values = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        return _drop(place, line, "broken_utf8", byte=error.start)
    except (ValueError, RecursionError) as error:
        return _drop(place, line, "broken_json", error=str(error)[:_EXCERPT])
    if not isinstance(values, dict):
        return _drop(place, line, "broken_json", error=f"a JSON {type(values).__name__} and no object")
    return Row(place, values)


def _csv(file: BinaryIO, name: str, layout: Layout) -> Iterator[Row | Drop]:
    """Bytes that are no UTF-8 become lone surrogates, which the check after it finds in their own row."""
    csv.field_size_limit(layout.longest)
    text = io.TextIOWrapper(file, "utf-8-sig", errors="surrogateescape", newline="")
    rows = csv.DictReader(text, dialect="excel-tab" if ".tsv" in name.lower() else "excel")
    while True:
        try:
            values = next(rows, None)
        except csv.Error as error:
            yield _drop(f"{name}:{rows.line_num}", "", "broken_csv", error=str(error))
            continue
        if values is None:
            return
        place, said = f"{name}:{rows.line_num}", "".join(v for v in values.values() if isinstance(v, str))
        if said.isascii() or _is_text(said):
            yield Row(place, {key: value for key, value in values.items() if key is not None})
        else:
            yield _drop(place, said.encode("utf-8", "surrogateescape"), "broken_utf8")


def _texts(file: BinaryIO, name: str, layout: Layout) -> Iterator[Row | Drop]:
    """Texts between separators, or the file as one; one beyond `longest` bytes ends at the last line that fits and goes
    on as the next text."""
    kept: list[bytes] = []
    size, first, number = 0, 1, 0
    separator = layout.separator.encode()
    while line := file.readline(_BLOCK):
        number += 1
        if separator and line.strip() == separator:
            yield from _text(kept, f"{name}:{first}")
            kept, size, first = [], 0, number + 1
        else:
            if kept and size + len(line) > layout.longest:
                yield from _text(kept, f"{name}:{first}")
                kept, size, first = [], 0, number
            kept.append(line)
            size += len(line)
    yield from _text(kept, f"{name}:{first}", last=True)


def _text(lines: list[bytes], place: str, last: bool = False) -> Iterator[Row | Drop]:
    """Nothing after the last separator is no text; nothing between two is an empty one."""
    if last and not any(line.strip() for line in lines) and place.rpartition(":")[2] != "1":
        return
    data = b"".join(lines)
    try:
        yield Row(place, {TEXT: data.decode("utf-8-sig").strip("\r\n")})
    except UnicodeDecodeError as error:
        yield _drop(place, data, "broken_utf8", byte=error.start)


def _parquet(path: Path, name: str, layout: Layout) -> Iterator[Row | Drop]:
    try:
        parquet, arrow = importlib.import_module("pyarrow.parquet"), importlib.import_module("pyarrow")
    except ImportError as error:
        raise MissingDependency("reading Parquet needs pyarrow", place=name, hint="pip install 'rung[data]'") from error
    number = 0
    try:
        with parquet.ParquetFile(path, memory_map=False, pre_buffer=False) as file:
            there = set(file.schema_arrow.names)
            columns = [column for column in layout.columns if column in there] if layout.columns else None
            for batch in file.iter_batches(batch_size=_BATCH, columns=columns):
                for values in batch.to_pylist():
                    number += 1
                    yield Row(f"{name}:{number}", values)
    except (arrow.ArrowException, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the file after row {number}: {error}", place=name) from error


def _is_text(text: str) -> bool:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        return False
    return True


def _drop(place: str, data: bytes | str, reason: str, **detail: Any) -> Drop:
    return Drop(place, excerpt(data), "reading", reason, detail=detail)
