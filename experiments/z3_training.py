"""Training with the formal verifier on against off, on a task whose answers are right or wrong for certain.

A function is to meet a contract (the larger of two numbers). The model was trained before on programs of which one in
four does; two of the others pass the tests, which are all of sorted positive pairs. Then it is trained by reward at
equal budget, the reward being Z3's proof or the tests alone, and every held-out answer is proved or refuted whoever
judged in training. Specification items 442 and 443; the toy is made so that the tests miss something, for that is what
a proof is for. Writes z3_training.json and z3_training.md.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._recipes import RUNS
from experiments._tiny_contracts import BODIES, CONTRACT
from experiments.grpo_tiny import recipe_run
from rung.base.files import read_json, write_json, write_text
from rung.base.proportions import wilson_interval
from rung.records.types import Answer
from rung.scoring.proving import TimeSpent, prover
from rung.scoring.verifiers.z3_program import Z3Program

__all__ = ["arms", "page", "proved", "run"]

SEEDS = (1, 2, 3)
JUDGES = {"proof": "Z3 on: the reward is a proof", "tests": "Z3 off: the reward is tests alone"}


def arms(judge: str, epochs: int = 20, **sizes: Any) -> list[dict[str, Any]]:
    """The stages of one way to judge; all else is equal."""
    training = {
        "num_steps": 30, "prompts_per_step": 8, "group_size": 16, "learning_rate": 2e-3, "eval_interval": 10,
        "health": {"stop_on": []}, "keep": "last", "kl_control": {"target": 0.1},
        "objective": {"kind": "grpo", "kl_coefficient": 0.02, "clip_high": 0.28}, **sizes,
    }  # fmt: skip
    sft = {"epochs": epochs, "learning_rate": 5e-3, "sequences_per_step": 32, "eval_fraction": 0.0}
    return [
        {"experiments._tiny_code:TinyData": {"name": "data", "asked": "larger", "bodies": BODIES}},
        {"sft": {"data": "data", "adapter": {"kind": "none"}, "training": sft}},
        {"grpo": {
            "name": "rl", "model": "sft", "num_items": 64, "sampling": {"max_new_tokens": 48},
            "tasks": [{"kind": "experiments._tiny_contracts:TinyContracts", "judge": judge}],
            "adapter": {"kind": "none"}, "pilot": {"num_prompts": 8},
            "exam": {"num_items": 32, "num_samples": 4, "temperature": 1.0}, "training": training,
        }},
    ]  # fmt: skip


def run(results_folder: Path, quick: bool = False) -> None:
    """Both ways, seed after seed; what is done so far is written after each, and not done again."""
    path = results_folder / "z3_training.json"
    found: dict[str, dict[str, Any]] = read_json(path)["arms"] if path.exists() and not quick else {}
    for seed in SEEDS[:1] if quick else SEEDS:
        for judge in JUDGES:
            if str(seed) in found.setdefault(judge, {}):
                continue
            found[judge][str(seed)] = one(judge, seed)
            sys.stdout.write(page({"arms": found}))
            write_json(path, {"arms": found})
            write_text(results_folder / "z3_training.md", page({"arms": found}))


def one(judge: str, seed: int, runs: Path = RUNS) -> dict[str, Any]:
    """The figures of one run, and the outcome of every held-out answer."""
    before, start = prover().table(), time.perf_counter()
    opened = recipe_run(f"z3_training-{judge}", arms(judge), seed, runs)
    seconds = time.perf_counter() - start
    figures = opened.manifest.figures
    return {
        "seconds": round(seconds, 1),
        "sampled_tokens": figures["num_sampled_tokens"],
        "reward_passes": [figures["exam"][name]["rate"] for name in ("before", "after")],
        "in_training": spent(before, prover().table()),
        "before": proved(list(opened.records("baseline"))),
        "after": proved(list(opened.records("answer"))),
        "kl": max(value for _, value in figures["curves"]["kl"]),
    }


def proved(answers: Sequence[Answer]) -> dict[str, Any]:
    """How many answers meet the contract for all inputs, with the interval; how many do not, or could not be told."""
    judge = Z3Program(Z3Program.Settings(**CONTRACT))
    outcomes = [judge.judge("", answer.text).reason.partition(":")[0] for answer in answers]
    right = outcomes.count("proved")
    low, high = wilson_interval(right, len(answers))
    counts = {name: outcomes.count(name) for name in sorted(set(outcomes))}
    return {"outcomes": counts, "num": len(answers), "share": right / len(answers), "low": low, "high": high}


def spent(before: Sequence[TimeSpent], after: Sequence[TimeSpent]) -> dict[str, float]:
    """What the prover did in between: queries, those it knew the answer of, and seconds of waiting."""
    totals = [
        {name: sum(getattr(row, name) for row in table) for name in ("queries", "known", "seconds")}
        for table in (before, after)
    ]
    return {name: round(totals[1][name] - totals[0][name], 3) for name in totals[0]}


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Training with the formal verifier on and off",
        "",
        "Proved: share of the held-out answers (32 items, four sampled answers each) that Z3 proves to meet the "
        "contract for all inputs, with the Wilson interval, whoever judged in training. Passes: share that the reward "
        "of the run itself passes. Z3's queries and seconds are those of pilot, training and exams. Written by "
        "`python -m experiments z3_training`.",
        "",
        "| reward | seed | proved before | proved after | passes before | passes after | tokens | KL, highest "
        "| Z3 queries (known) | seconds in Z3 | seconds |",
        "|---|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for judge, seeds in result["arms"].items():
        for seed, own in seeds.items():
            after, asked, passes = own["after"], own["in_training"], own["reward_passes"]
            lines.append(
                f"| {JUDGES[judge]} | {seed} | {own['before']['share']:.1%} | {after['share']:.1%} "
                f"[{after['low']:.1%}, {after['high']:.1%}] | {passes[0]:.1%} | {passes[1]:.1%} | "
                f"{own['sampled_tokens']} | {own['kl']:.2f} | {asked['queries']:.0f} ({asked['known']:.0f}) | "
                f"{asked['seconds']:.2f} | {own['seconds']} |"
            )
    return "\n".join(lines) + "\n"
