"""Does the policy loop learn? Two tasks for a model of a few hundred thousand weights, three seeds each.

`target`: a letter is to be said, from chance (specification item 317). `code`: a function is to be written, and the
reward is what the sandbox says of its tests; the model was trained before on programs of which one in four is right.
Writes grpo_tiny.json and grpo_tiny.md.
"""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml

from rung.app.models_keeper import ModelsKeeper
from rung.base.files import write_json, write_text
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options
from rung.pipeline.runner import run as run_recipe
from rung.records.manifest import open_manifest

__all__ = ["code_stages", "page", "run", "target_stages"]

SEEDS = (1, 2, 3)
RUNS = Path("runs/experiments")
_KL = {"objective": {"kind": "grpo", "kl_coefficient": 0.02, "clip_high": 0.28}}


def target_stages(**sizes: Any) -> list[dict[str, Any]]:
    """A letter, said by a model that knows nothing."""
    training = {
        "num_steps": 40, "prompts_per_step": 8, "group_size": 32, "learning_rate": 5e-3, "truncated": "as_is",
        "eval_interval": 10, "health": {"stop_on": ["kl_runaway"], "kl_limit": 20}, **_KL, **sizes,
    }  # fmt: skip
    task = {"kind": "target_word", "words": ["a"], "prompt": "{number}{word}"}
    return [
        {"grpo": {
            "name": "rl", "tasks": [task], "num_items": 64, "prompt": {"format": "raw"},
            "sampling": {"max_new_tokens": 1}, "adapter": {"kind": "none"},
            "pilot": {"num_prompts": 16, "least_mixed": 0.05}, "exam": {"num_items": 48}, "training": training,
        }}
    ]  # fmt: skip


def code_stages(epochs: int = 20, **sizes: Any) -> list[dict[str, Any]]:
    """Functions, written by a model that can write any of four."""
    training = {
        "num_steps": 30, "prompts_per_step": 8, "group_size": 16, "learning_rate": 2e-3, "eval_interval": 10,
        "health": {"kl_limit": 5}, **_KL, **sizes,
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


def run(results_folder: Path, quick: bool = False) -> None:
    """Both tasks, seed after seed; what is done so far is written after each."""
    found: dict[str, dict[str, Any]] = {}
    for name, stages in (("target", target_stages()), ("code", code_stages())):
        for seed in SEEDS[:1] if quick else SEEDS:
            found.setdefault(name, {})[str(seed)] = one(name, stages, seed)
            sys.stdout.write(page({"tasks": found}))
            write_json(results_folder / "grpo_tiny.json", {"tasks": found})
            write_text(results_folder / "grpo_tiny.md", page({"tasks": found}))


def one(name: str, stages: list[dict[str, Any]], seed: int, runs: Path = RUNS) -> dict[str, Any]:
    """The figures of one run, which is taken up where it stands."""
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"grpo_tiny-{name}-{seed}.yaml"
    write_text(path, yaml.safe_dump({"run": path.stem, "model": "tiny:llama", "seed": seed, "stages": stages}))
    keeper = ModelsKeeper(functools.partial(load, precision="float32"))
    recipe = recipes.load(path)
    # a result is looked at whatever the gates say; it is no release
    forced = frozenset({"sft", "rl"} & {spec.name for spec in recipe.stages})
    result = run_recipe(recipe, runs, keeper, Options(allow_dirty=True, force=forced))
    if result.exit_code:
        raise SystemExit(f"{path}: {result.error}")
    manifest = open_manifest(runs / path.stem / "rl").manifest
    figures = manifest.figures
    values = [value for _, value in figures["curves"]["kl"]]
    return {
        "passed": manifest.gate["passed"],
        "seconds": round(manifest.spend["seconds"], 1),
        "sampled_tokens": figures["num_sampled_tokens"],
        "pilot_pass_rate": figures["pilot"]["pass_rate"],
        "pilot_mixed": figures["pilot"]["mixed"],
        "exam": figures["exam"],
        "stopped": figures["stopped"],
        "reference": figures["reference"],
        "kl": [max(values), values[-1]],
        "entropy": [figures["curves"]["entropy"][0][1], figures["curves"]["entropy"][-1][1]],
        "sandbox": manifest.calibration.get("sandbox", {}).get("rung", ""),
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# The policy loop on tasks that a tiny model can learn",
        "",
        "Held-out pass rates before and after (target: greedy; code: four sampled answers to each item); the interval "
        "is of the paired gain (95 %, bootstrap over items). Sampled pass rate and share of mixed groups are the "
        "pilot's. Written by `python -m experiments grpo_tiny`.",
        "",
        "| task | seed | sampled at first | mixed groups | before | after | gain | McNemar p | KL, highest and last | "
        "entropy | tokens | seconds |",
        "|---|---:|---:|---:|---:|---:|---|---:|---:|---|---:|---:|",
    ]
    for name, seeds in result["tasks"].items():
        for seed, own in seeds.items():
            exam, lift = own["exam"], own["exam"]["lift"]
            gain = f"{lift['difference']:+.1%} [{lift['interval']['low']:+.1%}, {lift['interval']['high']:+.1%}]"
            entropy = f"{own['entropy'][0]:.2f} to {own['entropy'][1]:.2f}"
            lines.append(
                f"| {name} | {seed} | {own['pilot_pass_rate']:.1%} | {own['pilot_mixed']['share']:.0%} | "
                f"{exam['before']['rate']:.1%} | {exam['after']['rate']:.1%} | {gain} | {exam['mcnemar']['p']:.1g} | "
                f"{own['kl'][0]:.2f}, {own['kl'][1]:.2f} | {entropy} | {own['sampled_tokens']} | {own['seconds']} |"
            )
    return "\n".join(lines) + "\n"
