"""A corpus: texts of sources and of earlier stages, read as a stream, checked, without repeats, clear of benchmarks.

What is left out is counted by reason, and the first of each reason are kept with their places. A piece (a file) that
was processed before is not processed again, whichever run did it.
"""

from __future__ import annotations

from array import array
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import pydantic

from rung.base.fingerprint import content_hash, plain
from rung.base.lookup import part
from rung.base.settings import Field, Settings
from rung.datagen.corpus_build import Build, Kept
from rung.datagen.corpus_checks import BROKEN, CheckSettings
from rung.datagen.corpus_near import NearSettings
from rung.datagen.corpus_overlap import Overlap, OverlapSettings
from rung.datagen.corpus_source import Found, Piece
from rung.pipeline.stage import Context, KnownBy, Outputs, Stage, Verdict
from rung.pipeline.stages._benchmarks import benchmark_items
from rung.pipeline.stages._model import room
from rung.records.manifest import Opened
from rung.records.token_shards import document_key
from rung.records.types import Document, Drop

__all__ = ["Corpus"]

_SHARD_CHARS = 8 << 20
_KEPT_DROPS = 100
Part = str | dict[str, Any]


class CorpusSettings(Settings):
    """Where texts come from, and which of them are wanted."""

    sources: tuple[Part, ...] = Field(
        (), description="parts of datagen/sources, in order; a `name` tells two of a kind apart (see tokens.weights)"
    )
    of: tuple[str, ...] = Field((), description="stages whose output `document` is part of it, before the sources")
    checks: CheckSettings = Field(CheckSettings(), description="what may become a document")
    exact: bool = Field(True, description="whether equal texts are kept once")
    near: NearSettings = Field(NearSettings(), description="which texts are nearly equal; the first is kept")
    clear_of: tuple[Part, ...] = Field(
        ("human_eval",), description="benchmarks: parts of scoring/tasks or evaluate/suites, or {file: PATH}"
    )
    overlap: OverlapSettings = Field(OverlapSettings(), description="what counts as holding a benchmark's item")
    min_documents: int = Field(1, ge=1, description="the gate refuses a smaller corpus")
    max_broken: float = Field(0.01, ge=0, le=1, description="largest share of texts that could not be read")

    @pydantic.model_validator(mode="after")
    def _names(self) -> CorpusSettings:
        """A name stands before the names of files, and `stage` before those of stages."""
        for number, spec in enumerate(self.sources):
            name = spec.get("name") if isinstance(spec, dict) else None
            if name is not None and (not isinstance(name, str) or not name.strip() or "/" in name or name == "stage"):
                raise ValueError(f"sources[{number}].name is a word without '/', and not 'stage', got {name!r}")
        return self


class Corpus(Stage):
    """Documents of the output `document`; examples of what was left out are in `drop`."""

    Settings = CorpusSettings
    version = 1
    uses_model = False
    outputs: Mapping[str, str] = {"document": "document", "drop": "drop"}

    def inputs(self) -> dict[str, str]:
        """The stages that made texts."""
        return {f"of_{name}": name for name in self.settings.of}

    def known_by(self) -> KnownBy:
        """The settings, and what every piece holds; where it lies is no part of it."""
        sources = list(self._sources())
        pieces = {f"{number}/{p.name}": p.content for number, (_, own) in enumerate(sources) for p in own}
        settings = {
            **plain(self.settings),
            "sources": [
                {"kind": source.kind, **source.reading, **({"name": source.name} if source.name != source.kind else {})}
                for source, _ in sources
            ],
            "pieces": pieces,
            "clear_of": content_hash(benchmark_items(self.settings.clear_of)),
        }
        return KnownBy(settings)

    @property
    def source_names(self) -> list[str]:
        """What documents say that they are from, before the name of a file."""
        return [
            *(f"stage/{name}" for name in self.settings.of),
            *(_Named.of(spec).name for spec in self.settings.sources),
        ]

    def _sources(self) -> Iterator[tuple[_Named, list[Piece]]]:
        for number, spec in enumerate(self.settings.sources):
            named = _Named.of(spec)
            kind, own = part("datagen.sources", {"kind": named.kind, **named.reading}, f"sources[{number}]")
            reading = {k: v for k, v in plain(own).items() if k != "path"}
            yield replace(named, reading=reading), list(kind(own).pieces())

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Process what is new, find repeats, write shards; a shard that is there already is passed over."""
        items = benchmark_items(self.settings.clear_of)
        overlap = Overlap(items, self.settings.overlap)
        build = Build(
            self.settings.checks,
            self.settings.near,
            exact=self.settings.exact,
            overlap=overlap,
            overlap_key=content_hash([items, plain(self.settings.overlap)]),
        )
        kept = self._processed(build, context, inputs)
        counts = Counter[str]()
        for one in kept:
            counts.update(one.drops)
        sums = self._written(build.documents(kept, context.scratch), counts, context, outputs)
        dropped = [drop for one in kept for drop in one.dropped()] + sums.pop("repeats")
        outputs.shard("drop", 0, _first_of_each_reason(dropped))
        outputs.note("drops", dict(counts))
        outputs.note(
            "figures",
            {
                **sums,
                "num_pieces": len(kept),
                "num_new_pieces": sum(one.is_new for one in kept),
                "benchmark_items": {"num": overlap.num_items, "too_short_to_find": overlap.num_too_short},
            },
        )

    def _processed(self, build: Build, context: Context, inputs: Mapping[str, Opened]) -> list[Kept]:
        keeper = room("models.cache").Cache()
        stage = _Named("stage", "stage", {})
        made = [(stage, [_piece(name, inputs[f"of_{name}"])]) for name in self.settings.of]
        everything = [*made, *self._sources()]
        total, kept = sum(len(pieces) for _, pieces in everything), []
        for source, pieces in everything:
            for piece in pieces:
                kept.append(build.process(source.name, [source.kind, source.reading], piece, keeper))
                context.events.progress("pieces", len(kept), total, "pieces")
                context.budget.poll()
        return kept

    def _written(
        self, stream: Iterator[Document | Drop], counts: Counter[str], context: Context, outputs: Outputs
    ) -> dict[str, Any]:
        """Shards of about equal size; what repeats is counted into `counts`."""
        finished = set(outputs.finished("document"))
        index, size, repeats = 0, 0, list[Drop]()
        shard = list[Document]()
        sums = Counter[str]()

        def close() -> None:
            """Write the shard, unless an earlier attempt did."""
            nonlocal index, size, shard
            if shard and index not in finished:
                outputs.shard("document", index, shard)
            index, size, shard = index + bool(shard), 0, []
            context.budget.poll()

        for one in stream:
            if isinstance(one, Drop):
                counts[one.reason] += 1
                repeats += [one] if counts[one.reason] <= _KEPT_DROPS else []
                continue
            shard.append(one)
            size += len(one.text)
            sums.update({"num_chars": len(one.text), "num_bytes": len(one.text.encode())})
            if size >= _SHARD_CHARS:
                close()
        close()
        return {**sums, "repeats": repeats}

    def figures(self, output: Opened) -> dict[str, Any]:
        """Documents counted from the records; what was left out, as it was counted."""
        keys = array("Q", (document_key(record.id) for record in output.records("document")))
        num = len(keys)
        broken = sum(output.manifest.drops.get(reason, 0) for reason in BROKEN)
        seen = num + sum(output.manifest.drops.values())
        return {
            "num_documents": num,
            "num_different": len(np.unique(np.asarray(keys))),
            "broken": broken / max(seen, 1),
        }

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Enough documents, few broken ones, and no repeats where none were to be kept."""
        s, reasons = self.settings, []
        if figures["num_documents"] < s.min_documents:
            reasons.append(f"{figures['num_documents']} documents, {s.min_documents} are needed")
        if figures["broken"] > s.max_broken:
            reasons.append(f"{figures['broken']:.1%} of the texts could not be read, at most {s.max_broken:.1%} may")
        if s.exact and figures["num_different"] != figures["num_documents"]:
            reasons.append(f"only {figures['num_different']} of {figures['num_documents']} documents differ")
        return Verdict(not reasons, tuple(reasons))


@dataclass(frozen=True)
class _Named:
    """A source: what it is called (its kind, where nothing is said), its kind, and its settings."""

    name: str
    kind: str
    reading: Mapping[str, Any]

    @classmethod
    def of(cls, spec: Part) -> _Named:
        """As a recipe says it."""
        values = {"kind": spec} if isinstance(spec, str) else dict(spec)
        kind, name = str(values.pop("kind", "")), values.pop("name", None)
        return cls(str(name or kind), kind, values)


def _piece(name: str, opened: Opened) -> Piece:
    """The documents of a stage as a piece, known by its shards."""

    def read() -> Iterator[Found | Drop]:
        """One after another."""
        for record in opened.records("document"):
            yield Found(record.id, record.text, record.licence, record.language, record.meta)

    return Piece(name, content_hash([info.records_sha256 for info in opened.manifest.shards["document"]]), read)


def _first_of_each_reason(drops: list[Drop]) -> list[Drop]:
    counts = Counter[str]()
    kept = []
    for drop in drops:
        counts[drop.reason] += 1
        kept += [drop] if counts[drop.reason] <= _KEPT_DROPS else []
    return kept
