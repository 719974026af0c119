"""What a reward model is trained on: preference pairs, answers with attributes, solutions with labelled steps.

A source of `rung.datagen.labelled` gives one `LabelledSet`. Files are JSON lines, also gzipped; every fault is named by
its line. A label that is not there stays None.
"""

from __future__ import annotations

import gzip
import itertools
import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from rung.base.errors import DataError
from rung.datagen.preference_labels import LabelledAnswer
from rung.datagen.preference_ranking import RankedAnswer, Ranking, ranked_pair
from rung.records.types import PreferencePair, record_id

__all__ = ["LabelledSet", "LabelledSolution", "LabelledSource", "json_lines", "solution", "solution_pairs"]


@dataclass(frozen=True, slots=True)
class LabelledSolution:
    """An answer in lines. `soundness` labels its steps, which are all lines but the last (the conclusion), `coherence`
    the whole; both from 0 to 1, None where nobody said. `kind` names a planted flaw; `rank` orders the answers to one
    instruction, the higher the better (0 for all where no order is known)."""

    id: str
    instruction: str
    lines: tuple[str, ...]
    soundness: tuple[float | None, ...]
    coherence: float | None
    kind: str = ""
    rank: int = 0

    @property
    def text(self) -> str:
        """The whole answer."""
        return "\n".join(self.lines)


@dataclass(frozen=True, slots=True)
class LabelledSet:
    """All that a source gives; what it has nothing of is empty."""

    pairs: tuple[PreferencePair, ...] = ()
    answers: tuple[LabelledAnswer, ...] = ()
    solutions: tuple[LabelledSolution, ...] = ()


class LabelledSource(Protocol):
    """A part of `rung.datagen.labelled`."""

    def make(self) -> LabelledSet:
        """The set; the same settings (and file) give the same one."""


def json_lines(path: Path) -> Iterator[tuple[str, Mapping[str, Any]]]:
    """(file:line, object) of every line that is not empty; a name in `.gz` is unpacked.

    Raises:
        DataError: the file cannot be read, or a line is no JSON object.
    """
    opened = gzip.open if path.suffix == ".gz" else open
    try:
        with opened(path, "rt", encoding="utf-8") as file:
            for number, line in enumerate(file, 1):
                if line.strip():
                    yield f"{path.name}:{number}", _object(line, f"{path.name}:{number}")
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"cannot read the file: {error}", place=path.name) from error


def solution(
    instruction: str,
    lines: Sequence[str],
    soundness: Sequence[float | None],
    coherence: float | None,
    *,
    kind: str = "",
    rank: int = 0,
) -> LabelledSolution:
    """A solution with its id.

    Raises:
        DataError: another number of labels than of steps.
    """
    if len(soundness) != len(lines) - 1:
        raise DataError(f"{len(lines)} lines have {len(lines) - 1} steps, there are {len(soundness)} labels")
    name = record_id("solution", instruction, list(lines))
    return LabelledSolution(name, instruction, tuple(lines), tuple(soundness), coherence, kind, rank)


def solution_pairs(solutions: Sequence[LabelledSolution]) -> tuple[PreferencePair, ...]:
    """Every pair of solutions to one instruction whose ranks differ; its type is `better-worse`, by their kinds."""
    groups: dict[str, list[LabelledSolution]] = {}
    for one in solutions:
        groups.setdefault(one.instruction, []).append(one)
    return tuple(
        _pair(better, worse)
        for group in groups.values()
        for better, worse in itertools.permutations(group, 2)
        if better.rank > worse.rank
    )


def _pair(better: LabelledSolution, worse: LabelledSolution) -> PreferencePair:
    scored = [RankedAnswer(one.text, float(one.rank), "rank", one.id) for one in (better, worse)]
    ranking = Ranking(better.instruction, tuple(scored), f"{better.kind}-{worse.kind}")
    return ranked_pair(ranking, *scored)


def _object(line: str, place: str) -> Mapping[str, Any]:
    try:
        values = json.loads(line)
    except (ValueError, RecursionError) as error:
        raise DataError(f"not JSON: {error}", place=place) from error
    if not isinstance(values, dict):
        raise DataError(f"not an object but a JSON {type(values).__name__}", place=place)
    return values
