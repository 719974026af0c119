"""What a set of instructions consists of and what it lacks; how different they are; one set against an older one.

Everything follows from the records. Entropies are given as shares of what they could be with the same number of
values, so that 1 is even and 0 is all alike; a set of copies is near 0 in every measure.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.fingerprint import content_hash
from rung.datagen.stories.figures import distinct
from rung.datagen.wording import words
from rung.records.types import SftRecord

__all__ = ["Diversity", "Version", "changelog", "distribution", "diversity", "evenness", "version_of"]

_OPENING = 3


@dataclass(frozen=True, slots=True)
class Diversity:
    """Evenness of types and of styles, evenness of the openings (first three words) over the number of instructions,
    and the share of different runs of one, two and three words."""

    types: float
    styles: float
    openings: float
    distinct: dict[str, float]


@dataclass(frozen=True, slots=True)
class Version:
    """A set of records by its content: the id follows from which records there are, whatever their order."""

    id: str
    count: int
    types: dict[str, int]
    templates: dict[str, str]


def evenness(values: Sequence[str], possible: int = 0) -> float:
    """Entropy of the values over the largest it could be with `possible` different ones (0: as many as there are)."""
    counts, total = Counter(values), len(values)
    most = math.log(possible or max(2, len(counts)))
    found = -sum(count / total * math.log(count / total) for count in counts.values()) if total else 0.0
    return found / most if most > 0 else 0.0


def diversity(records: Sequence[SftRecord]) -> Diversity:
    """How different the instructions are."""
    texts = [record.instruction for record in records]
    openings = [" ".join(words(text)[:_OPENING]) for text in texts]
    return Diversity(
        types=evenness([record.type for record in records]),
        styles=evenness([_made(record).get("style", "") for record in records]),
        openings=evenness(openings, len(texts)) if len(texts) > 1 else 0.0,
        distinct={f"distinct_{n}": distinct(texts, n) for n in (1, 2, 3)},
    )


def distribution(records: Sequence[SftRecord], styles: Sequence[str], kinds: Sequence[str]) -> dict[str, Any]:
    """Counts by type, kind, style, template, turn and opening word, lengths, and gaps: kinds with styles that never
    meet although both are there to be used, and kinds or styles that are not used at all."""
    made = [_made(record) for record in records]
    met = {(kind, one.get("style")) for one in made for kind in one.get("kinds", ())}
    used = {kind for kind, _ in met}, {style for _, style in met}
    return {
        "types": _counted(record.type for record in records),
        "kinds": _counted(kind for one in made for kind in one.get("kinds", ())),
        "styles": _counted(str(one.get("style")) for one in made),
        "templates": _counted(str(one.get("template")) for one in made),
        "turns": _counted(str(one.get("turn", 0)) for one in made),
        "opening_words": _counted(next(iter(words(record.instruction)), "") for record in records),
        "instruction_words": _spread([len(words(record.instruction)) for record in records]),
        "response_words": _spread([len(words(record.response)) for record in records]),
        "gaps": [
            *(f"{kind} in {style}" for kind in kinds for style in styles if (kind, style) not in met),
            *(f"{kind} is never asked" for kind in kinds if kind not in used[0]),
            *(f"{style} is never used" for style in styles if style not in used[1]),
        ],
    }


def version_of(records: Sequence[SftRecord]) -> Version:
    """The version that these records are."""
    templates = {str(_made(r).get("template")): str(_made(r).get("template_version")) for r in records}
    return Version(
        id=content_hash(sorted(record.id for record in records))[:12],
        count=len(records),
        types=_counted(record.type for record in records),
        templates=dict(sorted(templates.items())),
    )


def changelog(old: Sequence[SftRecord], new: Sequence[SftRecord]) -> str:
    """What became of an older set, as Markdown: both ids, records added and removed by type, those whose text is asked
    differently now, templates that changed."""
    before, after = {r.id: r for r in old}, {r.id: r for r in new}
    added, removed = (
        [after[key] for key in after if key not in before],
        [before[key] for key in before if key not in after],
    )
    again = {_source(record) for record in added} & {_source(record) for record in removed}
    versions = version_of(old), version_of(new)
    lines = [
        f"# {versions[0].id} to {versions[1].id}",
        "",
        f"{len(old)} records became {len(new)}: {len(added)} added, {len(removed)} removed, "
        f"{len(after) - len(added)} as they were. {len(again)} texts are asked differently.",
        "",
        "| type | before | added | removed | now |",
        "|---|---:|---:|---:|---:|",
    ]
    rows = [_counted(r.type for r in group) for group in (old, added, removed, new)]
    for kind in sorted({kind for row in rows for kind in row}):
        lines.append(f"| {kind} | " + " | ".join(str(row.get(kind, 0)) for row in rows) + " |")
    lines += ["", *(f"- {text}" for text in _changed(versions[0].templates, versions[1].templates))]
    return "\n".join(lines).rstrip() + "\n"


def _changed(old: Mapping[str, str], new: Mapping[str, str]) -> list[str]:
    said = [f"template {name}: {old[name]} became {new[name]}" for name in old if new.get(name, old[name]) != old[name]]
    return [
        *said,
        *(f"template {n} is new" for n in new if n not in old),
        *(f"template {n} is gone" for n in old if n not in new),
    ]


def _made(record: SftRecord) -> Mapping[str, Any]:
    found = record.metadata.get("instruction", {})
    return found if isinstance(found, Mapping) else {}


def _source(record: SftRecord) -> str:
    return str(_made(record).get("document", record.id))


def _counted(values: Any) -> dict[str, int]:
    return dict(Counter(values).most_common())


def _spread(values: Sequence[int]) -> dict[str, float]:
    if not values:
        return {}
    return {"least": min(values), "median": statistics.median(values), "most": max(values)}
