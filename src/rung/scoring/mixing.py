"""Several rewards made one, so that weights mean what they say and no part is lost from sight.

`normalised`: each part is brought to mean 0 and sample deviation 1 **within the group** (the answers to one prompt)
before it is weighted and added (GDPO, arXiv 2601.05242). Adding first and normalising after lets the part with the
widest values decide, and makes different mixtures look alike. A part that is constant in a group adds 0 there, in
whatever unit it is measured. `sum` is the plain weighted sum of raw values, for comparison and for a single part.

An abstention leaves the answer out of that part's mean and deviation and adds 0; it is counted, never a low value.
A gated part is asked only about answers for which another part reached a value (say, the process only where the
outcome is right), is normalised among those, and adds 0 to the others. Group statistics use exact sums, so neither the
order of answers nor the neighbouring groups change a bit of the result; `batch_scale` alone joins groups, by dividing
all totals by their common deviation.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from rung.base.errors import DataError, SettingsError
from rung.base.events import Events
from rung.base.lookup import part
from rung.base.settings import Field, Settings, nearest
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reward import Lent, Range, checked

__all__ = ["Mix", "MixSettings", "Mixed", "PartFigures", "PartSettings", "Ranged", "build_mix", "normalise"]


class PartSettings(Settings):
    """One part of the mix."""

    reward: str | Mapping[str, Any] = Field(description="a reward of scoring/rewards: its name or `{kind: name, ...}`")
    weight: float = Field(default=1.0, ge=0, le=1000, description="how much it counts; 0: logged only")
    gate: str = Field(default="", description="ungated part that must reach `gate_from` for this one to count")
    gate_from: float = Field(default=1.0, description="value of the gating part from which on this one counts")
    required: bool = Field(default=False, description="whether an answer that it abstains from is left out altogether")
    min_spread: float = Field(
        default=1e-6, ge=0, lt=1, description="share of its range that a group must span not to count as constant"
    )


class MixSettings(Settings):
    """Which rewards, and how they are combined."""

    parts: Mapping[str, PartSettings] = Field(min_length=1, description="parts by a name of your choice")
    combine: Literal["normalised", "sum"] = Field(
        default="normalised", description="normalise each part in its group before weighting, or add raw values"
    )
    batch_scale: bool = Field(default=False, description="divide all totals by their deviation over the batch")


class Ranged(Protocol):
    """A scorer that says where its values lie."""

    @property
    def range(self) -> Range:
        """Where the values lie."""

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order."""


@dataclass(frozen=True, slots=True)
class PartFigures:
    """One part over a batch. Mean and deviation are of raw values (None without any, or without two).

    `influence` is the mean absolute amount that it adds to an answer; of `num_groups` groups, `num_constant` had no
    spread in this part.
    """

    weight: float
    num_scored: int
    num_abstained: int
    num_gated: int
    num_groups: int
    num_constant: int
    mean: float | None
    deviation: float | None
    influence: float


@dataclass(frozen=True, slots=True)
class Mixed:
    """A batch: a score per answer, with each part's amount as component and `raw.<part>` beside it; figures by part."""

    scores: tuple[Score, ...]
    figures: Mapping[str, PartFigures]

    def log(self, events: Events, step: int) -> None:
        """Every part's figures as metrics `reward/<part>/<figure>`, and the mean and number of totals."""
        for name, own in self.figures.items():
            for figure in ("mean", "deviation", "influence", "num_abstained", "num_gated", "num_constant"):
                if (value := getattr(own, figure)) is not None:
                    events.metric(f"reward/{name}/{figure}", value, step)
        totals = [score.value for score in self.scores if score.value is not None]
        events.metric("reward/num_abstained", len(self.scores) - len(totals), step)
        if totals:
            events.metric("reward/mean", math.fsum(totals) / len(totals), step)


@dataclass(frozen=True, slots=True)
class _Column:
    """One part's raw values (None: abstained or not asked), which answers its gate kept away, and what it adds."""

    raw: tuple[float | None, ...]
    gated: tuple[bool, ...]
    added: tuple[float, ...] = ()
    num_constant: int = 0


class Mix:
    """A reward made of rewards."""

    Settings = MixSettings

    def __init__(self, settings: MixSettings, parts: Mapping[str, Ranged]) -> None:
        """Take the parts, whose names are those of the settings.

        Raises:
            SettingsError: a name without a part, or a gate that is unknown, gated itself or never reached.
        """
        self.settings, self._parts = settings, dict(parts)
        for name in settings.parts:
            if name not in self._parts:
                raise SettingsError(f"no reward was given for the part '{name}'", hint=nearest(name, list(parts)))
            _check_gate(name, settings.parts, self._parts)

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """One score per (item, trace) pair, in order; answers to one item are a group."""
        return list(self.mixed(items, traces, [item.id for item in items]).scores)

    def mixed(self, items: Sequence[Item], traces: Sequence[Trace], groups: Sequence[Hashable]) -> Mixed:
        """Ask every part and combine.

        Args:
            items: one per answer.
            traces: the answers.
            groups: which answers are compared with each other.

        Raises:
            DataError: lists of different length; a value that is no number or out of range, named by its part.
        """
        if not len(items) == len(traces) == len(groups):
            raise DataError(f"{len(items)} items, {len(traces)} traces and {len(groups)} groups")
        columns = self._columns(items, traces)
        left_out = self._left_out(columns, len(items))
        columns = {name: self._weighted(name, column, groups, left_out) for name, column in columns.items()}
        totals = _totals(columns, left_out, self.settings.batch_scale)
        figures = {name: self._figures(name, column, len(set(groups))) for name, column in columns.items()}
        scores = tuple(_row(columns, number, total) for number, total in enumerate(totals))
        return Mixed(scores, figures)

    def _columns(self, items: Sequence[Item], traces: Sequence[Trace]) -> dict[str, _Column]:
        """Raw values by part, in the order of the settings; ungated parts are asked first."""
        columns: dict[str, _Column] = {}
        for name, own in sorted(self.settings.parts.items(), key=lambda entry: bool(entry[1].gate)):
            opened = _opened(columns[own.gate].raw, own.gate_from) if own.gate else [True] * len(items)
            asked = [number for number, is_open in enumerate(opened) if is_open]
            scores = self._parts[name].score([items[n] for n in asked], [traces[n] for n in asked])
            raw: list[float | None] = [None] * len(items)
            for number, score in zip(asked, scores, strict=True):
                raw[number] = checked(score, self._parts[name].range, name, items[number].id).value
            columns[name] = _Column(tuple(raw), tuple(not is_open for is_open in opened))
        return {name: columns[name] for name in self.settings.parts}

    def _left_out(self, columns: Mapping[str, _Column], number: int) -> list[bool]:
        """Which answers get no total: no part judged them, or a required one abstained."""
        required = [column for name, column in columns.items() if self.settings.parts[name].required]
        return [
            all(column.raw[n] is None for column in columns.values())
            or any(column.raw[n] is None and not column.gated[n] for column in required)
            for n in range(number)
        ]

    def _weighted(self, name: str, column: _Column, groups: Sequence[Hashable], left_out: Sequence[bool]) -> _Column:
        own = self.settings.parts[name]
        present = [None if out else value for value, out in zip(column.raw, left_out, strict=True)]
        least = own.min_spread * self._parts[name].range.width
        amounts, num_constant = normalise(present, groups, least)
        if self.settings.combine == "sum":
            amounts = [value or 0.0 for value in present]
        return _Column(column.raw, column.gated, tuple(own.weight * amount for amount in amounts), num_constant)

    def _figures(self, name: str, column: _Column, num_groups: int) -> PartFigures:
        values = [value for value in column.raw if value is not None]
        num_gated = sum(column.gated)
        return PartFigures(
            weight=self.settings.parts[name].weight,
            num_scored=len(values),
            num_abstained=len(column.raw) - len(values) - num_gated,
            num_gated=num_gated,
            num_groups=num_groups,
            num_constant=column.num_constant,
            mean=_mean(values) if values else None,
            deviation=_deviation(values) if len(values) > 1 else None,
            influence=_mean([abs(amount) for amount in column.added]) if column.added else 0.0,
        )


def build_mix(settings: MixSettings, lent: Lent, place: str = "rewards") -> Mix:
    """The mix that a recipe names, with what its parts need.

    Raises:
        SettingsError: a reward, setting or gate that does not exist (the nearest known one is named), or a part that
            needs what is not lent.
    """
    built: dict[str, Ranged] = {}
    for name, own in settings.parts.items():
        spec = own.reward if isinstance(own.reward, str) else dict(own.reward)
        kind, values = part("scoring.rewards", spec, f"{place}.parts.{name}.reward")
        built[name] = kind(values, lent)
    return Mix(settings, built)


def normalise(
    values: Sequence[float | None], groups: Sequence[Hashable], least_spread: float = 0.0
) -> tuple[list[float], int]:
    """Each value less its group's mean, over its group's sample deviation; and how many groups were constant.

    None is left out and becomes 0.0; a group that spans no more than `least_spread` (or has one value) gives zeros.
    """
    members: dict[Hashable, list[int]] = {}
    for number, group in enumerate(groups):
        members.setdefault(group, []).append(number)
    out, num_constant = [0.0] * len(values), 0
    for numbers in members.values():
        own = {number: value for number in numbers if (value := values[number]) is not None}
        if not own or max(own.values()) - min(own.values()) <= least_spread:
            num_constant += 1
            continue
        mean, deviation = _mean(list(own.values())), _deviation(list(own.values()))
        for number, value in own.items():
            out[number] = (value - mean) / deviation
    return out, num_constant


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def _deviation(values: Sequence[float]) -> float:
    """The sample deviation (n - 1), of at least two values."""
    mean = _mean(values)
    return math.sqrt(math.fsum((value - mean) ** 2 for value in values) / (len(values) - 1))


def _opened(raw: Sequence[float | None], least: float) -> list[bool]:
    return [value is not None and value >= least for value in raw]


def _totals(columns: Mapping[str, _Column], left_out: Sequence[bool], batch_scale: bool) -> list[float | None]:
    """What the parts add up to, None for answers that are left out."""
    sums = [math.fsum(column.added[number] for column in columns.values()) for number in range(len(left_out))]
    present = [None if out else total for total, out in zip(sums, left_out, strict=True)]
    if not batch_scale:
        return present
    scaled, _ = normalise(present, [0] * len(present))
    return [None if total is None else value for total, value in zip(present, scaled, strict=True)]


def _row(columns: Mapping[str, _Column], number: int, total: float | None) -> Score:
    raw = {f"raw.{name}": value for name, column in columns.items() if (value := column.raw[number]) is not None}
    if total is None:
        return Score(None, "a part that is required, or every part, abstained", raw, abstained=True)
    missing = [name for name, own in columns.items() if own.raw[number] is None and not own.gated[number]]
    added = {name: column.added[number] for name, column in columns.items()}
    return Score(total, f"abstained: {', '.join(missing)}" if missing else "", {**added, **raw})


def _check_gate(name: str, settings: Mapping[str, PartSettings], parts: Mapping[str, Ranged]) -> None:
    gate, place = settings[name].gate, f"rewards.parts.{name}.gate"
    if not gate:
        return
    others = [other for other in settings if other != name]
    if gate not in others:
        raise SettingsError(f"no other part is called '{gate}'", place=place, hint=nearest(gate, others))
    if settings[gate].gate:
        raise SettingsError(f"'{gate}' is gated itself", place=place, hint="gate on a part that has no gate")
    limits = parts[gate].range
    if not limits.low < settings[name].gate_from <= limits.high:
        raise SettingsError(
            f"gate_from {settings[name].gate_from} is always or never reached: '{gate}' gives {limits.low} to "
            f"{limits.high}",
            place=place,
        )
