"""The texts that must not be trained on: items of benchmarks by name, and files of the user's."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from rung.base.errors import DataError, SettingsError
from rung.base.lookup import known, part
from rung.datagen.corpus_overlap import BenchmarkItem
from rung.datagen.corpus_reading import Layout, Row, read_rows

__all__ = ["benchmark_items"]

_WHOLE = {"human_eval": 164}


def benchmark_items(specs: Sequence[str | dict[str, Any]]) -> list[BenchmarkItem]:
    """All items of the benchmarks, questions and reference answers.

    Args:
        specs: a suite (`instruction_following`), `human_eval`, or `{file: PATH, fields: [..]}`, JSON lines or any other
            format of `datagen.corpus_reading`.

    Raises:
        SettingsError: an unknown name.
        DataError: a file that cannot be read or has no such field.
        MissingDependency: a benchmark whose package is not installed.
    """
    return [item for number, spec in enumerate(specs) for item in _items(spec, f"clear_of[{number}]")]


def _items(spec: str | dict[str, Any], place: str) -> Iterator[BenchmarkItem]:
    if isinstance(spec, dict) and "file" in spec:
        yield from _of_file(Path(spec["file"]), tuple(spec.get("fields", ("text",))), place)
        return
    name = spec if isinstance(spec, str) else str(spec.get("kind", ""))
    if name in known("evaluate.suites"):
        kind, own = part("evaluate.suites", spec, place)
        for item in kind(own).items():
            yield from _texts(name, item.id, (item.instruction, item.reference))
        return
    if name not in _WHOLE:
        names = [*known("evaluate.suites"), *_WHOLE]
        raise SettingsError(f"no benchmark is called '{name}'", place=place, hint=f"known: {', '.join(names)}")
    kind, own = part("scoring.tasks", spec, place)
    for item in kind(own).make(0, _WHOLE[name], "held_out"):
        yield from _texts(name, item.id, (item.instruction, str(item.reference.get("answer", ""))))


def _of_file(path: Path, fields: tuple[str, ...], place: str) -> Iterator[BenchmarkItem]:
    for row in read_rows(path, path.name, Layout()):
        if not isinstance(row, Row):
            raise DataError(f"a benchmark with a broken item: {row.reason}", place=row.id)
        texts = [row.values.get(field) for field in fields]
        if not all(isinstance(text, str) for text in texts):
            raise DataError(f"a benchmark's item lacks one of {', '.join(fields)}", place=f"{place}: {row.place}")
        yield from _texts(path.stem, row.place, tuple(map(str, texts)))


def _texts(benchmark: str, name: str, texts: Sequence[str]) -> Iterator[BenchmarkItem]:
    for text in texts:
        if text:
            yield BenchmarkItem(benchmark, name, text)
