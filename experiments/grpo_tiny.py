"""Does the policy loop learn, and does it stay near where it began? Tasks for a model that fits in a test.

`target`: a letter is to be said, from chance (specification item 317), three times: under a small fixed KL coefficient,
held at 1.5 nats, where the letter becomes the likeliest, and held at 4, where it is nearly always drawn. To say it
always is 4.7 nats away, for the model gives it 0.9 % at first. `code`: a function is to be written, and the reward is
what the sandbox says of its tests; the model was trained before on programs of which one in four is right. Three seeds
each. Writes grpo_tiny.json and grpo_tiny.md.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from experiments._recipes import RUNS, run_values
from rung.app.models_keeper import ModelsKeeper
from rung.base.files import write_json, write_text
from rung.models.load import load
from rung.records.manifest import Opened, open_manifest

__all__ = ["arms", "code_stages", "page", "recipe_run", "run", "target_stages"]

SEEDS = (1, 2, 3)
_KL = {"objective": {"kind": "grpo", "kl_coefficient": 0.02, "clip_high": 0.28}}
_GREEDY: dict[str, Any] = {"num_items": 48}
_SAMPLED: dict[str, Any] = {"num_items": 48, "num_samples": 4, "temperature": 1.0}
BOUNDS = {"target, not held": None, "target, held at 1.5": 2.5, "target, held at 4": 4.6, "code, held at 0.1": 0.3}
"""Nats per token that no step of a run may lie beyond."""


def target_stages(bound: float | None = None, exam: Mapping[str, Any] = _GREEDY, **sizes: Any) -> list[dict[str, Any]]:
    """A letter, said by a model that knows nothing."""
    training = {
        "num_steps": 40, "prompts_per_step": 8, "group_size": 32, "learning_rate": 5e-3, "truncated": "as_is",
        "eval_interval": 10, "health": {"stop_on": ["kl_runaway"], "kl_limit": bound or 20.0}, **_KL, **sizes,
    }  # fmt: skip
    task = {"kind": "target_word", "words": ["a"], "prompt": "{number}{word}"}
    return [
        {"grpo": {
            "name": "rl", "tasks": [task], "num_items": 64, "prompt": {"format": "raw"},
            "sampling": {"max_new_tokens": 1}, "adapter": {"kind": "none"},
            "pilot": {"num_prompts": 16, "least_mixed": 0.05}, "exam": dict(exam), "training": training,
        }}
    ]  # fmt: skip


def code_stages(epochs: int = 20, **sizes: Any) -> list[dict[str, Any]]:
    """Functions, written by a model that can write any of four."""
    training = {
        "num_steps": 60, "prompts_per_step": 8, "group_size": 16, "learning_rate": 2e-3, "eval_interval": 10,
        "health": {"kl_limit": BOUNDS["code, held at 0.1"]}, "kl_control": {"target": 0.1}, **_KL, **sizes,
    }  # fmt: skip
    sft = {"epochs": epochs, "learning_rate": 5e-3, "sequences_per_step": 32, "eval_fraction": 0.0}
    return [
        {"experiments._tiny_code:TinyData": {"name": "data"}},
        {"sft": {"data": "data", "adapter": {"kind": "none"}, "training": sft}},
        {"grpo": {
            "name": "rl", "model": "sft", "tasks": ["experiments._tiny_code:TinyFunctions"], "num_items": 64,
            "sampling": {"max_new_tokens": 48}, "adapter": {"kind": "none"}, "pilot": {"num_prompts": 8},
            "exam": {"num_items": 32, "num_samples": 4, "temperature": 1.0}, "training": training,
        }},
    ]  # fmt: skip


def arms() -> dict[str, list[dict[str, Any]]]:
    """The stages of every row of the table."""
    near, far = BOUNDS["target, held at 1.5"], BOUNDS["target, held at 4"]
    return {
        "target, not held": target_stages(),
        "target, held at 1.5": target_stages(near, kl_control={"target": 1.5}),
        "target, held at 4": target_stages(far, _SAMPLED, kl_control={"target": 4.0, "strength": 20.0}),
        "code, held at 0.1": code_stages(),
    }


def run(results_folder: Path, quick: bool = False) -> None:
    """Every arm, seed after seed; what is done so far is written after each."""
    found: dict[str, dict[str, Any]] = {}
    for name, stages in arms().items():
        for seed in SEEDS[:1] if quick else SEEDS:
            found.setdefault(name, {})[str(seed)] = one(name, stages, seed)
            sys.stdout.write(page({"arms": found}))
            write_json(results_folder / "grpo_tiny.json", {"arms": found})
            write_text(results_folder / "grpo_tiny.md", page({"arms": found}))


def recipe_run(name: str, stages: list[dict[str, Any]], seed: int, runs: Path = RUNS) -> Opened:
    """The stage `rl` of a run on a tiny model, which is taken up where it stands.

    Raises:
        SystemExit: it ended otherwise than by finishing.
    """
    run = f"{name.replace(', ', '-').replace(' ', '_')}-{seed}"
    values = {"run": run, "model": "tiny:llama", "seed": seed, "stages": stages}
    keeper = ModelsKeeper(functools.partial(load, precision="float32"))
    return open_manifest(run_values(values, runs, keeper, force=("sft", "rl"))[0] / "rl")


def one(name: str, stages: list[dict[str, Any]], seed: int, runs: Path = RUNS) -> dict[str, Any]:
    """The figures of one run."""
    manifest = recipe_run(f"grpo_tiny-{name}", stages, seed, runs).manifest
    figures = manifest.figures
    curves = {name: [value for _, value in figures["curves"][name]] for name in ("kl", "entropy", "accuracy")}
    final = figures["final_step"]
    return {
        "passed": manifest.gate["passed"],
        "seconds": round(manifest.spend["seconds"], 1),
        "sampled_tokens": figures["num_sampled_tokens"],
        "pilot_pass_rate": figures["pilot"]["pass_rate"],
        "pilot_mixed": figures["pilot"]["mixed"],
        "exam": figures["exam"],
        "stopped": figures["stopped"],
        "reference": figures["reference"],
        "kl": {"highest": max(curves["kl"]), "last": curves["kl"][-1], "published": curves["kl"][max(final - 1, 0)]},
        "final_step": final,
        "curves": curves,
        "sandbox": manifest.calibration.get("sandbox", {}).get("rung", ""),
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# The policy loop on tasks that a tiny model can learn",
        "",
        "Held-out pass rates before and after (greedy where the target is held at 1.5 nats or not at all, else four "
        "sampled answers to each item); the interval is of the paired gain (95 %, bootstrap over items). Drawn right: "
        "the share of the training answers of the first and of the last step. KL in nats per token from the policy at "
        "the start: the highest of any step, against the bound that was set before. Written by "
        "`python -m experiments grpo_tiny`.",
        "",
        "| task | seed | before | after | gain | McNemar p | drawn right | KL, highest | bound | entropy | tokens "
        "| seconds |",
        "|---|---:|---:|---:|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, seeds in result["arms"].items():
        bound = BOUNDS[name]
        for seed, own in seeds.items():
            exam, lift, curves = own["exam"], own["exam"]["lift"], own["curves"]
            gain = f"{lift['difference']:+.1%} [{lift['interval']['low']:+.1%}, {lift['interval']['high']:+.1%}]"
            entropy = f"{curves['entropy'][0]:.2f} to {curves['entropy'][-1]:.2f}"
            beyond = bound is not None and own["kl"]["highest"] > bound
            lines.append(
                f"| {name} | {seed} | {exam['before']['rate']:.1%} | {exam['after']['rate']:.1%} | {gain} | "
                f"{exam['mcnemar']['p']:.1g} | {curves['accuracy'][0]:.1%} to {curves['accuracy'][-1]:.1%} | "
                f"{own['kl']['highest']:.2f}{' BEYOND' if beyond else ''} | {'-' if bound is None else bound} | "
                f"{entropy} | {own['sampled_tokens']} | {own['seconds']} |"
            )
    return "\n".join(lines) + "\n"
