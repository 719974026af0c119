"""`rung inspect`: what is in an output. Records, decoded loss masks in colour, flags with the matched span, drops.

Everything shown comes from the manifest and its shards. Functions return rich renderables, so tests read them as text.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from rich.console import Group, RenderableType
from rich.panel import Panel
from rich.table import Table
from rich.text import Text

from rung.app.runs import Output, records_of
from rung.base.errors import DataError
from rung.datagen.qc import flags as find_flags
from rung.datagen.qc_report import CleaningRow, audit_cleaning
from rung.records.chat.frame import Frame, Rendered
from rung.records.tokenizer import Tokenizer
from rung.records.types import Candidate, Drop, SftRecord, to_plain

__all__ = ["Part", "cleaning", "drops", "flags", "mask", "masks", "overview", "record_panel", "records"]

_FLAGS = "flags"
_CONTEXT = 160


@dataclass(frozen=True, slots=True)
class Part:
    """Which records to show: those with `id` (all when empty), at most `limit` of each kind."""

    id: str = ""
    limit: int = 5


def overview(output: Output, lineage: Sequence[Output] = ()) -> RenderableType:
    """The manifest in one screen: identity, chain of parents, outputs, drops, figures, gate, spend."""
    manifest = output.manifest
    head = Table.grid(padding=(0, 2))
    rows = {
        "stage": f"{manifest.name} ({manifest.stage}, version {manifest.stage_version}), run {manifest.run}",
        "outcome": manifest.outcome,
        "fingerprint": manifest.fingerprint[:16],
        "made by": f"{manifest.code.commit[:12]}{' (changed files)' if manifest.code.dirty else ''}",
        "time": f"{manifest.started} to {manifest.ended}",
        "parents": "\n".join(_parent(n, f, lineage) for n, f in manifest.parents.items()) or "none",
        "spend": _pairs(manifest.spend) or "not recorded",
    }
    for name, value in rows.items():
        head.add_row(Text(name, style="dim"), Text(value))
    parts: list[RenderableType] = [head]
    if manifest.shards:
        parts.append(_outputs_table(output))
    if manifest.drops:
        parts.append(_counts_table("left out", manifest.drops))
    for title, values in (("figures", manifest.figures), ("gate", manifest.gate)):
        if values:
            parts.append(Panel(Text(json.dumps(values, indent=2, ensure_ascii=False)), title=title, title_align="left"))
    for note in manifest.degraded:
        parts.append(Text(f"degraded: {_pairs(note)}", style="yellow"))
    for bypass in manifest.bypasses:
        parts.append(Text(f"bypassed: {bypass}", style="bold yellow"))
    return Group(*parts)


def records(output: Output, part: Part) -> RenderableType:
    """The first records of every output, or the one with an id.

    Raises:
        DataError: no record has that id.
    """
    shown: list[RenderableType] = []
    for name in output.manifest.shards:
        chosen = _first(output.opened.records(name), part)
        shown += [record_panel(record, name) for record in chosen]
    if part.id and not shown:
        raise DataError(
            f"no record has the id '{part.id}'", place=output.manifest.name, hint="ids are shown by rung inspect"
        )
    return Group(*shown) if shown else Text("no records")


def record_panel(record: Any, output: str) -> RenderableType:
    """One record, every field on its own line; long texts whole."""
    grid = Table.grid(padding=(0, 2))
    for name, value in to_plain(record).items():
        if name == "id" or value in (None, "", [], {}):
            continue
        shown = value if isinstance(value, str) else json.dumps(value, ensure_ascii=False)
        grid.add_row(Text(name, style="dim"), Text(shown))
    return Panel(grid, title=Text(f"{output} {record.id}"), title_align="left")


def drops(output: Output, part: Part) -> RenderableType:
    """What was left out: reasons with counts, then examples of each with the matched span marked."""
    return _by_reason(_dropped(output, lambda name: name != _FLAGS), part, "left out")


def flags(output: Output, part: Part) -> RenderableType:
    """What quality control's heuristics found: rule, id, text with the matched span marked; counts by rule.

    Flags are computed again from the candidates, as the summary's counts are, so the two cannot part; what an
    advisory filter flagged while the data were made stands beside them.
    """
    found = _dropped(output, lambda name: name == _FLAGS)
    found += [
        Drop(flag.id, flag.text, flag.heuristic, flag.rule, flag.span, {"outcome": flag.outcome})
        for flag in find_flags(records_of(output, "candidate"))
    ]
    return _by_reason(found, part, "flagged")


def masks(output: Output, part: Part, tokenizer: Tokenizer) -> RenderableType:
    """The training examples of an output as their tokens: prompt dim, trained tokens green.

    Raises:
        DataError: the output holds nothing that is trained on.
    """
    names = [n for n, infos in output.manifest.shards.items() if any(i.record_type == "sft" for i in infos)]
    if not names:
        raise DataError(
            "there are no training records here", place=output.manifest.name, hint="name the stage that made the data"
        )
    shown = []
    for name in names:
        for record in _first(output.opened.records(name), part):
            shown.append(_mask_panel(record, tokenizer))
    legend = Text.assemble(
        ("prompt, not trained", "dim"), "   ", ("trained", "black on green"), ("trained", "black on bright_green")
    )
    return Group(legend, *shown)


def mask(rendered: Rendered, tokenizer: Tokenizer) -> Text:
    """An example decoded token by token. Neighbouring tokens alternate in shade, so that every border can be seen;
    a line break inside a token is shown as a return sign and kept."""
    text = Text()
    for index, (token, trained) in enumerate(zip(rendered.token_ids, rendered.loss_mask, strict=True)):
        # Decoded after its neighbour: many tokenizers drop the space in front of a token that stands alone.
        before = list(rendered.token_ids[max(0, index - 1) : index])
        known = tokenizer.decode(before) if before else ""
        piece = tokenizer.decode([*before, token])[len(known) :].replace("\n", "⏎\n") or "∅"
        odd = index % 2 == 1
        style = (
            ("black on bright_green" if odd else "black on green") if trained else ("dim" if odd else "dim underline")
        )
        text.append(piece, style)
    return text


def _mask_panel(record: SftRecord, tokenizer: Tokenizer) -> RenderableType:
    rendered = Frame.render(tokenizer, record.instruction, record.response, earlier=record.earlier_pairs)
    trained = sum(rendered.loss_mask)
    count = f"{len(rendered.token_ids)} tokens, {trained} trained, {rendered.num_prompt_tokens} prompt"
    ids = " ".join(str(t) for t, m in zip(rendered.token_ids, rendered.loss_mask, strict=True) if m)
    body = Group(mask(rendered, tokenizer), Text(f"trained ids: {ids}", style="dim"))
    return Panel(body, title=Text(record.id), subtitle=count, title_align="left")


def cleaning(output: Output, count: int) -> RenderableType:
    """`count` random generations before and after cleaning, the largest changes first.

    Raises:
        DataError: the output holds no candidates.
    """
    candidates: list[Candidate] = records_of(output, "candidate")
    if not candidates:
        raise DataError(
            "there are no generations here to compare with their cleaned form",
            place=output.manifest.name,
            hint="name a stage that generates responses: rung inspect RUN/STAGE --cleaning 100",
        )
    rows = audit_cleaning(candidates, count, seed=0)
    table = Table(box=None, padding=(0, 2), show_lines=True)
    for column in ("removed", "rules", "generated, what was cut is struck through", "record"):
        table.add_column(column, justify="right" if column == "removed" else "left", overflow="fold")
    for row in rows:
        style = "bold yellow" if row.large else ""
        table.add_row(Text(str(row.removed), style=style), Text(", ".join(row.rules)), _cut(row), Text(row.id[:12]))
    changed, large = sum(row.removed != 0 for row in rows), sum(row.large for row in rows)
    head = Text(f"{len(rows)} of {len(candidates)} generations: {changed} changed, {large} by more than a third")
    return Group(head, table)


def _cut(row: CleaningRow) -> Text:
    """The text as generated, what cleaning cut off struck through; both texts where it was changed otherwise."""
    start = row.before.find(row.after)
    if start < 0 or not row.after:
        return Text.assemble((row.before, "strike red"), "\n", row.after)
    stop = start + len(row.after)
    return Text.assemble((row.before[:start], "strike red"), row.after, (row.before[stop:], "strike red"))


def _dropped(output: Output, wanted: Callable[[str], bool]) -> list[Drop]:
    found: list[Drop] = []
    for name, infos in output.manifest.shards.items():
        if wanted(name) and any(info.record_type == "drop" for info in infos):
            found += output.opened.records(name)
    return found


def _by_reason(dropped: Sequence[Drop], part: Part, title: str) -> RenderableType:
    chosen = [d for d in dropped if not part.id or d.id == part.id]
    if not chosen:
        return Text(f"nothing was {title}" + (f" with the id '{part.id}'" if part.id else ""))
    counts = Counter(_rule(d) for d in chosen)
    parts: list[RenderableType] = [_counts_table(title, dict(counts.most_common()))]
    for rule, count in counts.most_common():
        examples = [d for d in chosen if _rule(d) == rule][: part.limit]
        lines = [_example(d) for d in examples]
        parts.append(Panel(Group(*lines), title=Text(f"{rule} ({count})"), title_align="left"))
    return Group(*parts)


def _rule(drop: Drop) -> str:
    return f"{drop.part}: {drop.reason}"


def _example(drop: Drop) -> Text:
    """The text around the matched span, which is marked; the whole text when there is no span and it is short."""
    line = Text.assemble((drop.id, "bold"), "  ")
    if drop.span is None:
        line.append(drop.text if len(drop.text) <= 4 * _CONTEXT else drop.text[: 4 * _CONTEXT] + "…")
    else:
        start, end = drop.span
        left = max(0, start - _CONTEXT)
        line.append(("…" if left else "") + drop.text[left:start])
        line.append(drop.text[start:end] or "∅", "black on yellow")
        line.append(drop.text[end : end + _CONTEXT] + ("…" if end + _CONTEXT < len(drop.text) else ""))
    if drop.detail:
        line.append(f"  {json.dumps(dict(drop.detail), ensure_ascii=False)}", "dim")
    return line


def _first(found: Iterable[Any], part: Part) -> list[Any]:
    chosen: list[Any] = []
    for record in found:
        if part.id and record.id != part.id:
            continue
        chosen.append(record)
        if len(chosen) >= part.limit:
            break
    return chosen


def _parent(name: str, fingerprint: str, lineage: Sequence[Output]) -> str:
    made_by = next((o.manifest.name for o in lineage if o.manifest.fingerprint == fingerprint), "")
    return f"{name} ← {made_by or 'an output that is not in this run'} {fingerprint[:16]}"


def _outputs_table(output: Output) -> Table:
    table = Table(title="outputs", title_justify="left", box=None, padding=(0, 2))
    for column in ("output", "type", "records", "shards"):
        table.add_column(column, justify="right" if column in ("records", "shards") else "left")
    for name, infos in output.manifest.shards.items():
        kinds = ", ".join(sorted({info.record_type for info in infos})) or "none"
        table.add_row(Text(name), kinds, str(output.opened.count(name)), str(len(infos)))
    return table


def _counts_table(title: str, counts: dict[str, int]) -> Table:
    table = Table(title=title, title_justify="left", box=None, padding=(0, 2))
    table.add_column("reason")
    table.add_column("count", justify="right")
    for reason, count in counts.items():
        table.add_row(Text(reason), str(count))
    return table


def _pairs(values: Any) -> str:
    return ", ".join(f"{k} {v:g}" if isinstance(v, float) else f"{k} {v}" for k, v in dict(values).items())
