"""A published data set as typed records: documents, dialogues, test items or repair tasks, whatever it holds.

Rows that are not of its layout are counted and shown; what holds a benchmark's item is left out. `rung plan` says how
many rows are wanted and how many are there.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from functools import lru_cache
from typing import Any

from rung.base.errors import SettingsError
from rung.base.fingerprint import canonical, content_hash, plain
from rung.base.lookup import known, part
from rung.base.settings import Field, Settings
from rung.datagen.corpus_overlap import Overlap, OverlapSettings
from rung.datagen.published import Published, Record, text_of
from rung.pipeline.stage import Context, Estimate, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._benchmarks import benchmark_items
from rung.records.manifest import Opened
from rung.records.types import RECORD_TYPES, Drop

__all__ = ["Dataset"]

_FOLDER = "datagen.sources"
_TYPES = ("document", "dialogue", "test_item", "repair_task")
_SHARD, _KEPT_DROPS = 5000, 50


class DatasetSettings(Settings):
    """Which data set, how much of it, and what it must be clear of."""

    source: str | dict[str, Any] = Field(description="a part of datagen/sources that is a published data set")
    wanted: int = Field(0, ge=0, description="rows that are wanted; the gate refuses fewer records; 0: any")
    max_broken: float = Field(0.01, ge=0, le=1, description="largest share of rows that are not of the layout")
    clear_of: tuple[str | dict[str, Any], ...] = Field(("human_eval",), description="benchmarks, as in corpus")
    overlap: OverlapSettings = Field(OverlapSettings(), description="what counts as holding a benchmark's item")


class Dataset(Stage):
    """Records of the output named like their type."""

    Settings = DatasetSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {**{name: name for name in _TYPES}, "drop": "drop"}

    def check(self, terms: Terms) -> None:
        """Only published data sets have records.

        Raises:
            SettingsError: another part, or none of that name.
        """
        kind, _ = part(_FOLDER, self.settings.source, "source")
        if not issubclass(kind, Published):
            names = ", ".join(known(_FOLDER))
            raise SettingsError(f"'{kind.__name__}' is no published data set", place="source", hint=f"one of {names}")

    def known_by(self) -> KnownBy:
        """The settings, and what the files hold; where they lie is no part of it."""
        kind, own = part(_FOLDER, self.settings.source, "source")
        values = {"kind": kind.repository, **{name: value for name, value in plain(own).items() if name != "path"}}
        pieces = {piece.name: piece.content for piece in self._source().pieces()}
        clear_of = content_hash(benchmark_items(self.settings.clear_of))
        return KnownBy({**plain(self.settings), "source": values, "pieces": pieces, "clear_of": clear_of})

    def estimate(self, inputs: Mapping[str, Opened]) -> Estimate:
        """No cost worth naming; the basis says what is wanted and what is there."""
        source = self._source()
        there = (
            "on the hub"
            if source.settings.path is None
            else f"{_num_rows(canonical(self.settings.source), source)} rows"
        )
        return Estimate(basis=f"{source.repository}: {self.settings.wanted or 'any'} wanted, present: {there}")

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Read, look for benchmarks, write."""
        overlap = Overlap(benchmark_items(self.settings.clear_of), self.settings.overlap)
        counts, drops, made = Counter[str](), list[Drop](), {name: list[Record]() for name in _TYPES}
        shards = Counter[str]()
        seen = set[str]()
        for one in self._checked(overlap):
            if isinstance(one, Drop) or one.id in seen:
                drop = one if isinstance(one, Drop) else Drop(one.id, text_of(one)[:120], "dataset", "exact_repeat")
                counts[drop.reason] += 1
                drops += [drop] if counts[drop.reason] <= _KEPT_DROPS else []
                continue
            seen.add(one.id)
            name = next(name for name in _TYPES if type(one) is RECORD_TYPES[name])
            made[name].append(one)
            if len(made[name]) == _SHARD:
                outputs.shard(name, shards[name], made[name])
                shards[name] += 1
                made[name] = []
                context.budget.poll()
        for name, rest in made.items():
            if rest:
                outputs.shard(name, shards[name], rest)
        outputs.shard("drop", 0, drops)
        outputs.note("drops", dict(counts))

    def _checked(self, overlap: Overlap) -> Iterator[Record | Drop]:
        for one in self._source().records():
            hit = None if isinstance(one, Drop) else overlap.find(text_of(one))
            if hit is None or isinstance(one, Drop):
                yield one
            else:
                detail = {"benchmark": hit.benchmark, "item": hit.item, "words": hit.words}
                yield Drop(one.id, text_of(one)[:120], "dataset", "contaminated", detail=detail)

    def _source(self) -> Published:
        kind, own = part(_FOLDER, self.settings.source, "source")
        made: Published = kind(own)
        return made

    def figures(self, output: Opened) -> dict[str, Any]:
        """Records by type, and the share of rows that were not of the layout."""
        counts = {name: output.count(name) for name in _TYPES}
        drops = output.manifest.drops
        broken = sum(num for reason, num in drops.items() if reason not in ("contaminated", "exact_repeat"))
        return {**counts, "broken": broken / max(sum(counts.values()) + sum(drops.values()), 1)}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Enough records, few broken rows."""
        num, reasons = sum(figures[name] for name in _TYPES), []
        if num < max(self.settings.wanted, 1):
            reasons.append(f"{num} records, {self.settings.wanted or 1} are wanted")
        if figures["broken"] > self.settings.max_broken:
            reasons.append(f"{figures['broken']:.1%} of the rows are not of the layout")
        return Verdict(not reasons, tuple(reasons))


@lru_cache(maxsize=64)
def _num_rows(spec: str, source: Published) -> int:
    return sum(1 for _ in source.records())
