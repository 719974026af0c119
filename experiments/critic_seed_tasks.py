"""Do critics rank as well on pairs that nobody tuned them on? The calibration of both, on Self-Instruct's seed tasks.

Self-Instruct (Wang et al. 2023) publishes 175 seed tasks written by people (Apache-2.0, data/seed_tasks.jsonl of
github.com/yizhongw/self-instruct). Its file is not part of rung: RUNG_SEED_TASKS names it, and without it this
experiment says so and measures nothing. Writes critic_seed_tasks.json and critic_seed_tasks.md.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Iterable, Mapping
from pathlib import Path

from experiments._models import completers
from experiments.critic_table import SEED, SOURCES, Remembering
from rung.base.files import write_json, write_text
from rung.base.fingerprint import hash_file
from rung.base.lookup import part
from rung.scoring.calibration import CalibrationSettings, calibrate
from rung.scoring.calibration_report import CalibrationReport
from rung.scoring.known_pairs import KnownPair

__all__ = ["page", "read_seed_tasks", "run"]

_CRITICS = ("choice", "information_gain")
_MOST_WORDS = {"instruction": 40, "response": 40}


def read_seed_tasks(path: Path) -> list[KnownPair]:
    """The first instance of every task that is short enough for a small model, input after its instruction."""
    pairs = []
    for line in path.read_text(encoding="utf-8").splitlines():
        task = json.loads(line)
        instance = task["instances"][0]
        instruction = "\n".join(text for text in (task["instruction"].strip(), instance["input"].strip()) if text)
        response = instance["output"].strip()
        kind = "classification" if task["is_classification"] else "generation"
        texts = {"instruction": instruction, "response": response}
        if response and all(len(texts[name].split()) <= most for name, most in _MOST_WORDS.items()):
            pairs.append(KnownPair(instruction, response, kind))
    return pairs


def run(results_folder: Path, quick: bool = False) -> None:
    """Calibrate both critics with their shipped defaults on the packaged base model."""
    path = Path(os.environ.get("RUNG_SEED_TASKS", "seed_tasks.jsonl"))
    if not path.is_file():
        sys.stdout.write("no seed tasks: RUNG_SEED_TASKS=.../seed_tasks.jsonl names Self-Instruct's file; skipped\n")
        return
    pairs = read_seed_tasks(path)[: 12 if quick else None]
    limits = CalibrationSettings(num_resamples=200 if quick else 2000)
    reports: dict[str, CalibrationReport] = {}
    for _, completer in completers(SOURCES[:1]):
        remembering = Remembering(completer)
        for name in _CRITICS:
            kind, settings = part("scoring.judges", name)
            reports[name] = calibrate(kind(settings, completer=remembering), pairs, limits, SEED)
    write_json(results_folder / "critic_seed_tasks.json", {"file": hash_file(path), "reports": reports})
    write_text(results_folder / "critic_seed_tasks.md", page(reports))
    sys.stdout.write(page(reports))


def page(reports: Mapping[str, CalibrationReport]) -> str:
    """The result as Markdown."""
    first = next(iter(reports.values()))
    title = f"# Critics on {first.num_pairs} pairs that nobody tuned them on"
    note = (
        f"{SOURCES[0]}; the first instance of Self-Instruct's seed tasks of at most {_MOST_WORDS['instruction']} words "
        f"and answers of at most {_MOST_WORDS['response']}; shipped defaults. AUC of good answers against each "
        "corruption, 95 % bootstrap over pairs. Written by `python -m experiments critic_seed_tasks`."
    )
    return "\n".join([title, "", note, "", *_rows(reports)]) + "\n"


def _rows(reports: Mapping[str, CalibrationReport]) -> Iterable[str]:
    names = list(reports)
    yield "| corruption | n | " + " | ".join(names) + " |"
    yield "|" + "---|" * (len(names) + 2)
    for kind, figures in reports[names[0]].kinds.items():
        cells = [reports[name].kinds[kind].auc for name in names]
        mark = "" if figures.mandated else " (not mandated)"
        shown = " | ".join(f"{cell.value:.2f} [{cell.low:.2f}, {cell.high:.2f}]" for cell in cells)
        yield f"| {kind}{mark} | {figures.accepted.num_judged} | {shown} |"
    for name, report in reports.items():
        yield ""
        verdict = "may gate" if report.verdict.may_gate else "may not gate"
        yield f"{name}: {verdict}: {'; '.join(report.verdict.reasons)}"
