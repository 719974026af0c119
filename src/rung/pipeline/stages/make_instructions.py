"""Instructions that the texts of a corpus answer, as training records: what is asked is true of the text, and measured.

Kinds of parts, styles and turns are combined per document; no model is needed unless a kind writes (`summary`). Every
record says which document, kind, template and seed it comes from. The gate asks for alignment, for a check that
catches swapped texts, and for different instructions. With `since` it says what changed from an older set. With
`unseen` some ways of asking, in texts of their own, are kept for measuring (the output `unseen`, for `sft.unseen`).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from rung.base.errors import SettingsError
from rung.base.files import write_text
from rung.base.fingerprint import code, plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.base.settings import Field, Settings, unsaid
from rung.datagen.instructing.alignment import alignment
from rung.datagen.instructing.asking import KINDS, Kind, Means, kinds, wordings
from rung.datagen.instructing.distribution import changelog, distribution, diversity, version_of
from rung.datagen.instructing.pairing import Bench, Paired, PairSettings, pair_up, sft_of
from rung.datagen.instructing.styles import STYLES, Styles, load_styles
from rung.datagen.instructing.unseen import UnseenSettings, check_unseen, pair_sides, unseen_figures
from rung.datagen.stories.features import FEATURES, load_features
from rung.datagen.stories.judging import Known
from rung.datagen.stories.vocabulary import WORDS, load_vocabulary
from rung.datagen.wording import fold
from rung.pipeline.sharding import for_each_shard
from rung.pipeline.stage import Context, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._completer import usage
from rung.pipeline.stages._writing import WritingSettings, check_writing, open_pen, written_by
from rung.records.manifest import Opened
from rung.records.types import SftRecord

__all__ = ["MakeInstructions"]

_NO_MODEL = "no model writes"


class LimitSettings(Settings):
    """What the finished set must meet."""

    min_records: int = Field(10, ge=1, description="fewest records")
    min_aligned: float = Field(1.0, ge=0, le=1, description="share of pairs whose text gives what is asked")
    min_caught: float = Field(0.9, ge=0, le=1, description="share of pairs found out when their texts are swapped")
    min_distinct_2: float = Field(0.1, ge=0, le=1, description="different runs of two words, of the first 5,000")
    max_repeats: float = Field(0.02, ge=0, le=1, description="share of instructions that repeat one of another shard")


class MakeInstructionsSettings(WritingSettings):
    """From which documents, and what is asked of them."""

    data: str = Field(description="the stage whose documents are answers")
    output: str = Field("document", description="which of its outputs holds them")
    kinds: tuple[str | dict[str, Any], ...] = Field(
        ("words", "sentence", "features", "gist"), min_length=1, description="parts of datagen/instructing/kinds"
    )
    styles: tuple[str, ...] = Field((), description="styles to use; empty: all there are")
    wordings: str = Field("", description="a file of styles and turns (YAML); empty: the shipped one")
    words: str = Field("", description="a list of words (YAML); empty: the shipped one")
    features: str = Field("", description="a file of features (YAML); empty: the shipped one")
    pairs: PairSettings = Field(PairSettings(), description="how many, and of how many parts")
    since: str = Field("", description="an older stage of instructions, whose difference from this one is written down")
    limits: LimitSettings = Field(LimitSettings(), description="what the finished set must meet")
    unseen: UnseenSettings | None = Field(
        None, exclude_if=unsaid(), description="kinds and styles that are only measured on; empty: all are trained"
    )


class MakeInstructions(Stage):
    """Training records and drops, one shard for each of the corpus; with `unseen` records that are measured on too."""

    Settings = MakeInstructionsSettings
    version = 1
    outputs: Mapping[str, str] = {"sft": "sft", "drop": "drop"}

    def __init__(self, settings: MakeInstructionsSettings) -> None:
        super().__init__(settings)
        if settings.unseen:
            self.outputs = {**self.outputs, "unseen": "sft"}

    def inputs(self) -> dict[str, str]:
        """The corpus, and the older set where one is named."""
        return {"data": self.settings.data, **({"since": self.settings.since} if self.settings.since else {})}

    def files(self) -> dict[str, Path]:
        """The lists that are the user's."""
        own = self.settings
        named = {"wordings": own.wordings, "words": own.words, "features": own.features}
        return {key: Path(name) for key, name in named.items() if name}

    def check(self, terms: Terms) -> None:
        """Kinds, styles and lists are read once, so that what is wrong is told before any work.

        Raises:
            SettingsError, DataError: naming the setting, the template or the entry of a file.
        """
        if self._writes:
            check_writing(self.settings, terms)
        if self.settings.pairs.min_asks > self.settings.pairs.max_asks:
            raise SettingsError("min_asks is above max_asks", place="pairs.min_asks")
        bench = _bench(self.settings, Means(_known(self.settings)))
        if not any(kind.identifies for kind in bench.kinds.values()):
            raise SettingsError("none of the kinds tells one text from another", place="kinds", hint="add words")
        if self.settings.unseen:
            check_unseen(self.settings.unseen, bench)

    def known_by(self) -> KnownBy:
        """The writer by its model, where one writes."""
        known = written_by(self.settings)
        return known if self._writes else KnownBy(known.settings, _NO_MODEL)

    @property
    def _writes(self) -> bool:
        return any(part(KINDS, spec, "kinds")[0].needs_completer for spec in self.settings.kinds)

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Documents."""
        data = inputs.get("data")
        return None if data is None else float(data.count(self.settings.output))

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Make every shard that is not finished; then say what changed."""
        own, data = self.settings, inputs["data"]

        def make_work() -> Callable[[int], None]:
            """Load the model, where one writes, once in every process."""
            known = _known(own)
            pen = open_pen(context, outputs, own) if self._writes else None
            means = Means(known, pen.completer, pen.asking) if pen else Means(known)
            bench = _bench(own, means)
            about = _provenance(context, data, pen.facts if pen else data.manifest.model)

            def work(index: int) -> None:
                """Make and save one shard."""
                documents = list(data.shard(own.output, index))
                seed, measured = derive(context.seed, "shard", index), Paired()
                if own.unseen:
                    found, measured = pair_sides(documents, bench, own.unseen, seed)
                    records = [sft_of(pair, about(pair.document.source)) for pair in measured.pairs]
                    outputs.shard("unseen", index, records)
                else:
                    found = pair_up(documents, bench, seed)
                outputs.shard("drop", index, [*found.dropped, *measured.dropped])
                outputs.shard("sft", index, [sft_of(pair, about(pair.document.source)) for pair in found.pairs])
                context.budget.spend(tokens=usage(pen.completer).completion if pen else 0)

            return work

        for_each_shard(context, outputs, "sft", range(len(data.manifest.shards[own.output])), make_work)
        if not self._writes:
            outputs.note("model", data.manifest.model)
        outputs.note("drops", _by_reason(outputs))
        if "since" in inputs:
            text = changelog(list(inputs["since"].records("sft")), outputs.records("sft"))
            write_text(outputs.file("changelog.md", "changelog"), text)

    def figures(self, output: Opened) -> dict[str, Any]:
        """Alignment, diversity, distribution and version, recomputed from the records."""
        own, records = self.settings, list[SftRecord](output.records("sft"))
        bench = _bench(own, Means(_known(own)))
        asked = [fold("\n".join([*(turn.content for turn in r.earlier), r.instruction])) for r in records]
        found = {
            "count": len(records),
            "documents": len({r.metadata["instruction"]["document"] for r in records}),
            "alignment": plain(alignment(records, bench.kinds)),
            "diversity": plain(diversity(records)),
            "repeats": len(asked) - len(set(asked)),
        }
        kept = own.unseen or UnseenSettings()
        if own.unseen:
            measured = list[SftRecord](output.records("unseen"))
            aligned = alignment(measured, bench.kinds).aligned
            found["unseen"] = {**plain(unseen_figures(records, measured, kept)), "aligned": plain(aligned)}
        shown = distribution(
            records,
            [name for name in bench.styles.styles if name not in kept.styles],
            [name for name in bench.kinds if name not in kept.kinds],
        )
        return {"qc": found, "distribution": shown, "version": plain(version_of(records))}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """Aligned, by a check that catches swapped texts, different, and enough."""
        limits, found = self.settings.limits, figures["qc"]
        if found["count"] < limits.min_records:
            return Verdict(
                False, (f"{found['count']} records, at least {limits.min_records} are needed",), decided=False
            )
        if self.settings.unseen and found["unseen"]["count"] < self.settings.unseen.min_records:
            few = f"{found['unseen']['count']} records of unseen kinds and styles, at least "
            return Verdict(False, (f"{few}{self.settings.unseen.min_records} are needed",), decided=False)
        rows = (
            ("aligned", _share(found["alignment"]["aligned"]), limits.min_aligned),
            ("caught when swapped", _share(found["alignment"]["caught"]), limits.min_caught),
            ("distinct_2", found["diversity"]["distinct"]["distinct_2"], limits.min_distinct_2),
        )
        reasons = [f"{name}: {value:.1%}, limit {least:.1%}" for name, value, least in rows if value < least]
        if found["repeats"] > limits.max_repeats * found["count"]:
            reasons.append(f"{found['repeats']} of {found['count']} instructions repeat another one")
        if "unseen" in found:
            reasons += _not_apart(found["unseen"], limits.min_aligned)
        return Verdict(not reasons, tuple(reasons))


def _not_apart(found: Mapping[str, Any], least: float) -> list[str]:
    """What is wrong with the records that are measured on."""
    rows = (
        (found["num_trained"], "trained records ask in a way that is held out"),
        (found["num_known"], "measured records ask in no way that is held out"),
        (found["num_texts"], "measured records have a text that is trained on"),
    )
    reasons = [f"{number} {what}" for number, what in rows if number]
    if found["aligned"]["total"] and _share(found["aligned"]) < least:
        reasons.append(f"unseen, aligned: {_share(found['aligned']):.1%}, limit {least:.1%}")
    return reasons


def _share(found: Mapping[str, Any]) -> float:
    return float(found["count"] / found["total"]) if found["total"] else 0.0


def _known(own: MakeInstructionsSettings) -> Known:
    features = load_features(Path(own.features) if own.features else FEATURES)
    return Known(load_vocabulary(Path(own.words) if own.words else WORDS), features)


def _styles(own: MakeInstructionsSettings) -> Styles:
    return load_styles(Path(own.wordings) if own.wordings else STYLES).only(own.styles, "styles")


def _bench(own: MakeInstructionsSettings, means: Means) -> Bench:
    made: dict[str, Kind] = kinds(own.kinds, means, "kinds")
    return Bench(own.pairs, made, wordings(made), _styles(own), means.known.features)


def _by_reason(outputs: Outputs) -> dict[str, int]:
    counts: dict[str, int] = {}
    for drop in outputs.records("drop"):
        counts[drop.reason] = counts.get(drop.reason, 0) + 1
    return counts


def _provenance(context: Context, data: Opened, facts: Mapping[str, Any]) -> Callable[[str], dict[str, Any]]:
    """What every record carries, by the source of its document, which stands for the model where none wrote it."""
    found, report = code(), facts.get("report", {})

    def about(source: str) -> dict[str, Any]:
        """For one source."""
        return {
            "artifact_type": "sft",
            "stage": context.name,
            "run": context.run,
            "git_commit": found.commit,
            "git_branch": found.branch,
            "git_dirty": found.dirty,
            "source_hash": found.source_hash,
            "loader_version": str(report.get("loader_version", "none")),
            "model_name": str(facts.get("source") or report.get("model_name") or source),
            "model_content": str(facts.get("content_id", "")),
            "guard_verdict": str(report.get("verdict", "none")),
            "corpus": data.manifest.name,
        }

    return about
