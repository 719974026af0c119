"""The story of a run, told from its manifests and records alone: every number here was read or recomputed from them.

A stage that is absent leaves its part empty; the page says so instead of leaving a hole.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.app.reports.critics import CriticCard, critic_cards
from rung.app.reports.quality import quality_rows
from rung.app.reports.results import REFERENCE, Results, Sample, measure, samples
from rung.app.reports.shapes import Held, held, series
from rung.app.reports.svg import Curve
from rung.app.reports.timeline import last_trace
from rung.app.runs import Output
from rung.base.errors import DataError
from rung.base.files import inside
from rung.base.lookup import part
from rung.evaluate.statistics import Proportion
from rung.pipeline.spans import Span, read_spans
from rung.records.manifest import Manifest
from rung.records.types import Answer, SftRecord, TestItem

__all__ = ["Cost", "DataCard", "Diff", "Guard", "Story", "Training", "tell"]

_NUM_SAMPLES = 32
_NUM_DIFFS = 8
_PIECES = re.compile(r"\s+|\w+|[^\w\s]")


@dataclass(frozen=True, slots=True)
class Diff:
    """A response as the model gave it and as it was kept: pieces of ("same" | "gone" | "new", text)."""

    id: str
    instruction: str
    pieces: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class DataCard:
    """A stage that made data: how much, against which limits, what was left out, what cleaning changed."""

    stage: str
    counts: Mapping[str, int]
    limits: tuple[Held, ...]
    verdict: bool | None
    reasons: tuple[str, ...]
    drops: tuple[tuple[str, int], ...]
    diffs: tuple[Diff, ...]
    num_cleaned: int
    margins: tuple[float, ...]
    margin_limit: float | None


@dataclass(frozen=True, slots=True)
class Training:
    """A stage that trained: its curves by what they measure, and the facts of the run."""

    stage: str
    charts: tuple[tuple[str, tuple[Curve, ...]], ...]
    facts: tuple[tuple[str, str], ...]


@dataclass(frozen=True, slots=True)
class Cost:
    """One stage's spend beside its estimate; None where no estimate was made."""

    stage: str
    seconds: float
    tokens: float
    money: float
    expected_seconds: float | None

    @property
    def error(self) -> float | None:
        """Spent over expected, less one; None without an estimate."""
        return self.seconds / self.expected_seconds - 1 if self.expected_seconds else None


@dataclass(frozen=True, slots=True)
class Guard:
    """What the clean loader found about a model, with the sentinels' texts."""

    model: str
    verdict: str
    facts: tuple[tuple[str, str], ...]
    notes: tuple[str, ...]
    sentinels: tuple[Mapping[str, Any], ...]


@dataclass(frozen=True, slots=True)
class Story:
    """Everything the page shows."""

    run: str
    outputs: tuple[Manifest, ...]
    gap: Results | None
    results: Results | None
    release: Mapping[str, Any]
    samples: tuple[Sample, ...]
    critics: tuple[CriticCard, ...]
    data: tuple[DataCard, ...]
    trainings: tuple[Training, ...]
    costs: tuple[Cost, ...]
    guards: tuple[Guard, ...]
    degraded: tuple[str, ...]
    bypasses: tuple[str, ...]
    trace: tuple[Span, ...] = ()

    @property
    def tuned(self) -> Proportion | None:
        """The last condition's rate, when there is something to compare it with."""
        return self.results.conditions[-1].passed if self.results else None


def tell(run: str, outputs: Sequence[Output]) -> Story:
    """Collect the story of one run.

    Args:
        run: its name.
        outputs: its finished stages, parents first.

    Raises:
        DataError: there are none, or a shard is broken.
    """
    if not outputs:
        raise DataError(f"run '{run}' has no finished stage", hint="rung run RECIPE")
    items = {item.id: item for item in [*_suite_items(outputs), *_records(outputs, "test_item", TestItem)]}
    answers = _answers(outputs)
    base = [answer for answer in answers if not answer.condition.startswith("tuned")]
    tuned = len(base) < len(answers)
    given = [answer for answer in answers if answer.condition != REFERENCE]
    manifests = tuple(output.manifest for output in outputs)
    return Story(
        run=run,
        outputs=manifests,
        gap=measure(base, items),
        results=measure(given, items) if tuned else None,
        release=_release(manifests),
        samples=samples(given, items, _NUM_SAMPLES),
        critics=critic_cards(manifests),
        data=tuple(card for o in outputs if (card := _data(o)) is not None),
        trainings=tuple(t for o in outputs if (t := _training(o)) is not None),
        costs=tuple(_cost(m) for m in manifests),
        guards=_guards(manifests),
        degraded=_unique(": ".join(map(str, note.values())) for m in manifests for note in m.degraded),
        bypasses=_unique(bypass for m in manifests for bypass in m.bypasses),
        trace=tuple(last_trace(read_spans(outputs[0].folder.parent))),
    )


def _records(outputs: Iterable[Output], record_type: str, kind: type) -> Iterable[Any]:
    for output in outputs:
        for name, infos in output.manifest.shards.items():
            if any(info.record_type == record_type for info in infos):
                yield from (r for r in output.opened.records(name) if isinstance(r, kind))


def _suite_items(outputs: Sequence[Output]) -> list[TestItem]:
    """Items of the suites that stages name, where the suite is still the very one that was asked (its version)."""
    found: list[TestItem] = []
    for output in outputs:
        spec, version = output.manifest.settings.get("suite"), output.manifest.figures.get("suite_version")
        if not spec or not version:
            continue
        kind, settings = part("evaluate.suites", spec, f"{output.manifest.name}.suite")
        suite = kind(settings)
        if suite.version == version:
            found += suite.items()
    return found


def _answers(outputs: Sequence[Output]) -> list[Answer]:
    """All answers of the run, each once: a later stage may hold copies of its baselines. Where two stages answered an
    item differently under one condition, the later one's name is added: two tuned models are two conditions."""
    answers: list[Answer] = []
    seen: dict[tuple[str, str], Answer] = {}
    for output in outputs:
        own: list[Answer] = list(_records([output], "answer", Answer))
        clashing = {a.condition for a in own if seen.get((a.condition, a.item_id), a) != a}
        for answer in own:
            if answer.condition in clashing:
                answers.append(dataclasses.replace(answer, condition=f"{answer.condition}:{output.manifest.name}"))
            elif (answer.condition, answer.item_id) not in seen:
                seen[answer.condition, answer.item_id] = answer
                answers.append(answer)
    return answers


def _release(manifests: Sequence[Manifest]) -> Mapping[str, Any]:
    evaluations = [m for m in manifests if m.stage == "evaluate" and m.gate]
    return evaluations[-1].gate if evaluations else {}


def _data(output: Output) -> DataCard | None:
    manifest = output.manifest
    sft = [n for n, infos in manifest.shards.items() if any(i.record_type == "sft" for i in infos)]
    if not sft:
        return None
    made: list[SftRecord] = [record for name in sft for record in output.opened.records(name)]
    cleaned = [r for r in made if r.raw_response.strip() != r.response.strip()]
    critiques = [r.pair_critique for r in made if r.pair_critique is not None]
    verdict = manifest.gate.get("passed")
    return DataCard(
        stage=manifest.name,
        counts={name: output.opened.count(name) for name in manifest.shards},
        limits=_limits(manifest),
        verdict=verdict if isinstance(verdict, bool) else None,
        reasons=tuple(map(str, manifest.gate.get("reasons", ()))),
        drops=tuple(sorted(manifest.drops.items(), key=lambda pair: -pair[1])),
        diffs=tuple(_diff(r) for r in cleaned[:: max(1, len(cleaned) // _NUM_DIFFS)][:_NUM_DIFFS]),
        num_cleaned=len(cleaned),
        margins=tuple(c.rank for c in critiques),
        margin_limit=critiques[0].confidence_threshold if critiques else None,
    )


def _limits(manifest: Manifest) -> tuple[Held, ...]:
    quality = manifest.figures.get("qc")
    rows = quality_rows(quality, manifest.settings) if isinstance(quality, Mapping) else ()
    return rows or tuple(held(manifest.gate) or held(manifest.figures))


def _diff(record: SftRecord) -> Diff:
    before, after = _PIECES.findall(record.raw_response), _PIECES.findall(record.response)
    pieces: list[tuple[str, str]] = []
    matcher = difflib.SequenceMatcher(None, before, after, autojunk=False)
    for operation, i1, i2, j1, j2 in matcher.get_opcodes():
        if operation == "equal":
            pieces.append(("same", "".join(before[i1:i2])))
            continue
        if i2 > i1:
            pieces.append(("gone", "".join(before[i1:i2])))
        if j2 > j1:
            pieces.append(("new", "".join(after[j1:j2])))
    return Diff(record.id, record.instruction, tuple(pieces))


def _training(output: Output) -> Training | None:
    manifest = output.manifest
    found = series({"curves": manifest.figures.get("curves", {}), **_curve_files(output)})
    if not found:
        return None
    groups: dict[str, list[tuple[str, list[tuple[float, float]]]]] = {}
    for name, points in found.items():
        groups.setdefault(_quantity(name), []).append((name, sorted(points)))
    charts = tuple(
        (
            quantity,
            tuple(Curve(_who(name), tuple(points), mark) for mark, (name, points) in enumerate(_held_first(lines))),
        )
        for quantity, lines in sorted(groups.items(), key=lambda pair: (pair[0] != "loss", pair[0]))
    )
    facts = [(k, _plain_value(v)) for k, v in manifest.figures.items() if isinstance(v, (str, bool, int, float))]
    return Training(manifest.name, charts, tuple(facts))


def _curve_files(output: Output) -> dict[str, Any]:
    """Curves kept as files: JSON, or JSON lines."""
    read: dict[str, Any] = {}
    for info in output.manifest.files:
        if info.role != "curve":
            continue
        try:
            text = inside(output.folder, info.name).read_text(encoding="utf-8")
            lines = info.name.endswith(".jsonl")
            read[info.name] = [json.loads(line) for line in text.splitlines()] if lines else json.loads(text)
        except (OSError, json.JSONDecodeError) as error:
            raise DataError(f"cannot read a curve: {error}", place=f"{output.manifest.name}/{info.name}") from error
    return read


def _quantity(name: str) -> str:
    return "loss" if "loss" in name else name


def _who(name: str) -> str:
    if "loss" not in name:
        return name.replace("_", " ")
    return "held-out" if re.search(r"held|eval|valid|test", name) else "training"


def _held_first(lines: Sequence[tuple[str, Any]]) -> list[tuple[str, Any]]:
    return sorted(lines, key=lambda line: _who(line[0]) != "held-out")


def _cost(manifest: Manifest) -> Cost:
    return Cost(
        stage=manifest.name,
        seconds=manifest.spend.get("seconds", 0.0),
        tokens=manifest.spend.get("tokens", 0.0),
        money=manifest.spend.get("money", 0.0),
        expected_seconds=manifest.estimate.get("seconds") or None,
    )


def _guards(manifests: Sequence[Manifest]) -> tuple[Guard, ...]:
    """One per model: the first report of each, since the same report travels in every manifest."""
    found: dict[str, Guard] = {}
    for manifest in manifests:
        report = manifest.model.get("report", manifest.model)
        if not isinstance(report, Mapping) or not report:
            continue
        name = str(report.get("model_name") or manifest.model.get("source") or "model")
        facts = [(k, _plain_value(v)) for k, v in report.items() if isinstance(v, (str, bool, int, float)) and v != ""]
        sentinels = [s for s in report.get("sentinel_results", ()) if isinstance(s, Mapping)]
        notes = [*report.get("reasons", ()), *(f"override: {what}" for what in report.get("overrides", ()))]
        guard = Guard(name, str(report.get("verdict", "")), tuple(facts), tuple(map(str, notes)), tuple(sentinels))
        found.setdefault(name, guard)
    return tuple(found.values())


def _plain_value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def _unique(texts: Iterable[str]) -> tuple[str, ...]:
    return tuple(dict.fromkeys(texts))
