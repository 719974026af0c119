"""`rung compare A B [C]`: what moved between outputs or runs, and whether a difference in answers is more than noise.

Answers are compared on the items that both sides answered, paired; p-values are adjusted by Holm's procedure over the
pairs shown, because each of them reads as a claim. Manifests are compared by their settings, figures, verdict and cost.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from rung.app.progress import duration
from rung.app.reports.results import Results, known_order, measure
from rung.app.runs import Output, find_output, outputs_of, records_of
from rung.base.errors import DataError, SettingsError
from rung.base.settings import nearest
from rung.datagen.qc import Rate
from rung.datagen.qc_report import PoolEffect, pool_effect
from rung.evaluate.statistics import holm
from rung.records.manifest import FILE_NAME
from rung.records.types import Answer, TestItem

__all__ = [
    "Side",
    "answers_table",
    "changes",
    "changes_table",
    "compare",
    "conditions_of",
    "find_side",
    "results_table",
]

_ALPHA = 0.05
_MOST_ROWS = 60


@dataclass(frozen=True)
class Side:
    """One thing that is compared: its label, its outputs by stage name, its answers by condition, its test items."""

    label: str
    outputs: Mapping[str, Output]
    answers: Mapping[str, tuple[Answer, ...]]
    items: Mapping[str, TestItem]
    condition: str = ""


def find_side(runs: Path, target: str) -> Side:
    """What `RUN`, `RUN/STAGE` or either with `:CONDITION` behind it names.

    Raises:
        DataError: there is no such output, or it has no such condition.
    """
    name, _, condition = target.partition(":")
    folder = next((f for f in (runs / name, Path(name)) if f.is_dir()), None)
    whole = folder is not None and not (folder / FILE_NAME).is_file() and any(folder.glob(f"*/{FILE_NAME}"))
    outputs = outputs_of(folder) if whole and folder is not None else [find_output(runs, name)]
    answers: dict[str, list[Answer]] = {}
    items: dict[str, TestItem] = {}
    for output in outputs:
        for record in _records(output):
            if isinstance(record, Answer):
                answers.setdefault(record.condition, []).append(record)
            else:
                items[record.id] = record
    if condition and condition not in answers:
        raise DataError(f"'{name}' has no answers under '{condition}'", hint=nearest(condition, list(answers)))
    found = {name: tuple(given) for name, given in answers.items()}
    return Side(target, {o.manifest.name: o for o in outputs}, found, items, condition)


def conditions_of(side: Side) -> list[Side]:
    """A side as several, one for each condition that its items were answered under.

    Raises:
        SettingsError: there is one condition, or none.
    """
    if side.condition or len(side.answers) < 2:
        raise SettingsError(
            "one thing cannot be compared", place=side.label, hint=f"name another: rung compare {side.label} B"
        )
    order = known_order(list(side.answers))
    return [dataclasses.replace(side, label=name, outputs={}, condition=name) for name in order]


def compare(sides: Sequence[Side]) -> RenderableType:
    """Everything that two or more sides can be compared by."""
    parts: list[RenderableType] = []
    if all(side.answers for side in sides):
        parts.append(_answers_part(sides))
    if (pools := _pools_table(sides)) is not None:
        parts.append(pools)
    for title, group in _matching(sides):
        rows = changes(group)
        parts.append(changes_table(title, [side.label for side in sides], rows))
    if not parts:
        raise DataError(
            "these have nothing in common to compare",
            place=", ".join(side.label for side in sides),
            hint="name stages of the same kind: rung compare RUN_A/STAGE RUN_B/STAGE",
        )
    return Group(*parts)


def changes(outputs: Sequence[Output]) -> list[tuple[str, tuple[str, ...]]]:
    """Settings, figures, verdict and cost that are not the same in all outputs: (path, value in each)."""
    plain = [_facts(output) for output in outputs]
    paths = dict.fromkeys(path for facts in plain for path in facts)
    rows = [(path, tuple(facts.get(path, "absent") for facts in plain)) for path in paths]
    return [(path, values) for path, values in rows if len(set(values)) > 1]


def results_table(results: Results) -> Table:
    """Conditions with their pass rates, n and Wilson intervals."""
    table = Table(box=None, padding=(0, 2))
    for column in ("condition", "passed", "of", "rate", "95 % interval", "cut at limit"):
        table.add_column(column, justify="left" if column == "condition" else "right")
    for c in results.conditions:
        low, high = c.passed.interval.low, c.passed.interval.high
        table.add_row(
            Text(c.name),
            str(c.passed.successes),
            str(c.passed.n),
            f"{c.passed.rate:.1%}",
            f"{low:.1%} to {high:.1%}",
            str(c.num_limit_hits),
        )
    return table


def answers_table(results: Results) -> Table:
    """Paired tests between conditions, each marked as a difference or as noise."""
    table = Table(box=None, padding=(0, 2), title="paired, on the same items", title_justify="left")
    for column in ("comparison", "items", "difference", "95 % interval", "only 1st", "only 2nd", "p (Holm)", "h", ""):
        table.add_column(column, justify="left" if column in ("comparison", "") else "right")
    adjusted = holm([pair.test.p for pair in results.pairs]) if results.pairs else []
    for pair, p in zip(results.pairs, adjusted, strict=True):
        lift = pair.lift
        table.add_row(
            Text(f"{pair.first} → {pair.second}"),
            str(lift.num_items),
            f"{100 * lift.difference:+.1f} points",
            f"{100 * lift.interval.low:+.1f} to {100 * lift.interval.high:+.1f}",
            str(pair.test.only_first),
            str(pair.test.only_second),
            f"{p:.2g}",
            f"{pair.effect:+.2f}",
            "[bold]different[/bold]" if p < _ALPHA else "[dim]within noise[/dim]",
        )
    return table


def changes_table(title: str, labels: Sequence[str], rows: Sequence[tuple[str, tuple[str, ...]]]) -> RenderableType:
    """The rows of `changes` side by side."""
    if not rows:
        return Text(f"{title}: nothing differs")
    table = Table(box=None, padding=(0, 2), title=title, title_justify="left")
    table.add_column("what moved")
    for label in labels:
        table.add_column(Text(label), overflow="fold")
    for path, values in rows[:_MOST_ROWS]:
        table.add_row(Text(path), *[Text(value) for value in values])
    if len(rows) > _MOST_ROWS:
        table.caption = f"{len(rows) - _MOST_ROWS} more rows: rung inspect shows each manifest whole"
    return table


def _answers_part(sides: Sequence[Side]) -> RenderableType:
    answers = [dataclasses.replace(a, condition=side.label) for side in sides for a in _one_condition(side)]
    items = {item_id: item for side in sides for item_id, item in side.items.items()}
    results = measure(answers, items)
    if results is None:
        return Text("no answers")
    parts: list[RenderableType] = [results_table(results)]
    missing = len(sides) * (len(sides) - 1) // 2 - len(results.pairs)
    if results.pairs:
        parts.append(answers_table(results))
    if missing:
        parts.append(Text(f"{missing} pairs share no item, so no paired test is possible for them", style="yellow"))
    if results.types:
        parts.append(_types_table(results))
    return Group(*parts)


def _pools_table(sides: Sequence[Side]) -> Table | None:
    """What the instructions of each side came to: acceptance, distinct share, types; None without instructions."""
    effects = [_pool_effect(side) for side in sides]
    found = [effect for effect in effects if effect is not None]
    if len(found) < len(sides):
        return None
    table = Table(box=None, padding=(0, 2), title="instructions written", title_justify="left")
    table.add_column("of all")
    for side in sides:
        table.add_column(Text(side.label), justify="right", overflow="fold")
    table.add_row("number", *[str(effect.distinct.total) for effect in found])
    table.add_row("distinct", *[_rate(effect.distinct) for effect in found])
    table.add_row("accepted of judged", *[_rate(effect.acceptance) for effect in found])
    for kind in sorted({kind for effect in found for kind in effect.types}):
        shares = [_rate(Rate(effect.types.get(kind, 0), effect.distinct.total)) for effect in found]
        table.add_row(Text(f"type {kind}"), *shares)
    return table


def _pool_effect(side: Side) -> PoolEffect | None:
    """Of the side's last stage that holds instructions and candidates."""
    for output in reversed(list(side.outputs.values())):
        if instructions := records_of(output, "instruction"):
            return pool_effect(side.label, instructions, records_of(output, "candidate"))
    return None


def _rate(rate: Rate) -> str:
    return "none" if rate.value is None else f"{rate.value:.1%} ({rate.count}/{rate.total})"


def _one_condition(side: Side) -> tuple[Answer, ...]:
    """The condition that was asked for, else the one furthest along (tuned before framed before raw)."""
    return side.answers[side.condition or known_order(list(side.answers))[-1]]


def _types_table(results: Results) -> Table:
    table = Table(box=None, padding=(0, 2), title="by type", title_justify="left")
    table.add_column("type")
    for condition in results.conditions:
        table.add_column(Text(condition.name), justify="right")
    table.add_column("p, last two, adjusted", justify="right")
    for row in results.types:
        rates = [f"{rate.rate:.0%} of {rate.n}" for rate in row.rates]
        table.add_row(Text(row.name), *rates, "n/a" if row.adjusted_p is None else f"{row.adjusted_p:.2g}")
    return table


def _matching(sides: Sequence[Side]) -> list[tuple[str, list[Output]]]:
    """Outputs that belong together: single ones as they are, those of whole runs by their stage's name."""
    if all(len(side.outputs) == 1 for side in sides):
        return [("manifests", [next(iter(side.outputs.values())) for side in sides])]
    shared = [name for name in sides[0].outputs if all(name in side.outputs for side in sides)]
    return [(name, [side.outputs[name] for side in sides]) for name in shared]


def _facts(output: Output) -> dict[str, str]:
    manifest = output.manifest
    facts = {"outcome": manifest.outcome, "code": manifest.code.commit[:12]}
    for name, values in (
        ("settings", manifest.settings),
        ("gate", manifest.gate),
        ("figures", manifest.figures),
        ("drops", manifest.drops),
    ):
        facts.update(_leaves(values, name))
    facts.update({f"records.{name}": str(output.opened.count(name)) for name in manifest.shards})
    spend = manifest.spend
    facts.update({f"spend.{k}": duration(v) if k == "seconds" else f"{v:g}" for k, v in spend.items()})
    return facts


def _leaves(value: Any, path: str) -> dict[str, str]:
    if isinstance(value, Mapping):
        return {k: v for key, inner in value.items() for k, v in _leaves(inner, f"{path}.{key}").items()}
    if isinstance(value, list):
        return {path: "; ".join(map(str, value)) or "none"} if len(value) <= 12 else {path: f"{len(value)} values"}
    return {path: f"{value:.4g}" if isinstance(value, float) else str(value)}


def _records(output: Output) -> list[Any]:
    found: list[Any] = []
    for name, infos in output.manifest.shards.items():
        if any(info.record_type in ("answer", "test_item") for info in infos):
            found += output.opened.records(name)
    return found
