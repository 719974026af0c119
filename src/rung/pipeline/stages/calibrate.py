"""Measure critics before any of them may gate: known-good pairs against corrupted ones, kind by kind.

The reports go into this manifest; the stages that judge read them from here and apply the written rule (the first
critic that may gate, in the order named). A critic under its limit gates nothing.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from rung.base.errors import ModelError, SettingsError
from rung.base.lookup import part
from rung.base.seeds import stream
from rung.base.settings import Field
from rung.base.turns import take_turns
from rung.engine.settings import EngineSettings
from rung.pipeline.stage import Context, KnownBy, Outputs, Stage, Terms, Verdict
from rung.pipeline.stages._completer import CompletingSettings, check_completer, known_by, open_outside
from rung.pipeline.stages._model import open_engine
from rung.records.contracts import Capabilities
from rung.records.manifest import Opened
from rung.scoring.calibration import CalibrationSettings, calibrate
from rung.scoring.known_pairs import KnownPair, known_pairs

__all__ = ["Calibrate"]


_CANNOT_JUDGE = (
    "leave the completer out: the recipe's model judges; or, for a hosted one, score_by_echo: true where the server "
    "echoes log-probabilities, with allow_unclean_model: true in each critic"
)


class _Promise:
    """Stands in for a completer that is not opened yet, as far as critics look at one before they judge."""

    def __init__(self, able: Capabilities) -> None:
        self._able = able

    def capabilities(self) -> Capabilities:
        """What it promises."""
        return self._able


class CalibrateSettings(CompletingSettings):
    """Which critics are measured, on how many pairs, against which limits."""

    critics: tuple[str | dict[str, Any], ...] = Field(
        ("choice", "information_gain"), min_length=1, description="judges of pairs, the preferred one first"
    )
    num_pairs: int = Field(0, ge=0, description="known pairs used, drawn evenly over types; 0: all that ship")
    limits: CalibrationSettings = Field(CalibrationSettings(), description="what a critic must show")
    engine: EngineSettings = Field(EngineSettings(), description="slots and cache of the engine")


class Calibrate(Stage):
    """Calibration reports of every critic, in the manifest's calibration section."""

    Settings = CalibrateSettings
    version = 1
    outputs: Mapping[str, str] = {}

    def check(self, terms: Terms) -> None:
        """Every critic must be able to judge with the completer."""
        if about := check_completer(self.settings, terms):
            for number, spec in enumerate(self.settings.critics):
                critic_class, settings = part("scoring.judges", spec, f"critics.{number}")
                try:
                    critic_class(settings, _Promise(about.able))
                except ModelError as error:
                    raise SettingsError(error.message, place="completer", hint=_CANNOT_JUDGE) from error

    def known_by(self) -> KnownBy:
        """The completer by its model."""
        return known_by(self.settings)

    def units(self, inputs: Mapping[str, Opened]) -> float | None:
        """Known pairs, once per critic."""
        return (self.settings.num_pairs or len(known_pairs())) * len(self.settings.critics)

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """Calibrate each critic on the same pairs with the same corruptions."""
        if outside := open_outside(context, self.settings):
            outputs.note("model", outside.facts)
        engine = outside.completer if outside else open_engine(context, outputs, self.settings.engine)
        pairs = drawn_evenly(known_pairs(), self.settings.num_pairs, context.seed)
        for number, spec in enumerate(self.settings.critics):
            critic_class, settings = part("scoring.judges", spec, f"{context.name}.critics[{number}]")
            report = calibrate(critic_class(settings, engine), pairs, self.settings.limits, context.seed)
            context.events.log(f"critic {report.critic}: {'; '.join(report.verdict.reasons)}")
            context.events.progress("critics", number + 1, len(self.settings.critics))
            outputs.note("calibration", {f"{number}": report.model_dump(mode="json")})
            context.budget.spend()

    def figures(self, output: Opened) -> dict[str, Any]:
        """Which critics may gate."""
        reports = output.manifest.calibration
        return {"may_gate": [r["critic"] for _, r in sorted(reports.items()) if r["verdict"]["may_gate"]]}

    def gate(self, figures: Mapping[str, Any]) -> Verdict:
        """At least one critic must be able to gate."""
        if figures["may_gate"]:
            return Verdict(True)
        return Verdict(False, ("no critic may gate: each is under its limit (rung inspect shows the table)",))


def drawn_evenly(pairs: Sequence[KnownPair], count: int, seed: int) -> list[KnownPair]:
    """`count` pairs, types taking turns, in a seeded order; all of them for 0."""
    if not count or count >= len(pairs):
        return list(pairs)
    by_type: dict[str, list[KnownPair]] = {}
    for pair in pairs:
        by_type.setdefault(pair.type, []).append(pair)
    for kind, group in by_type.items():
        stream(seed, "pairs", kind).shuffle(group)
    return take_turns(by_type.values(), count)
