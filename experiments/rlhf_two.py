"""RLHF in two stages: does ranked feedback pay, and does the attribute that is weighted up improve most?

Stage one (specification item 318): a model of preferences, trained on answers ranked by the mean of their attributes,
rewards a policy that was trained on answers before. Stage two (item 319): a model of quantiles is trained on answers
labelled in three attributes; then one policy for each attribute is rewarded with that attribute's weight at four and
the others' at one. Three seeds each. What came of it is counted in held-out answers (`_planted_answers.truth`), which
no model sees, beside what the reward model says of them. Writes rlhf_two.json, rlhf_two.md and the manifest of one run.
"""

from __future__ import annotations

import functools
import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from experiments._planted_answers import ATTRIBUTES, truth
from rung.app.models_keeper import ModelsKeeper
from rung.base.files import write_json, write_text
from rung.base.fingerprint import plain
from rung.evaluate.statistics import paired_bootstrap
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options
from rung.pipeline.runner import run as run_recipe
from rung.records.manifest import Opened, open_manifest
from rung.records.types import Answer

__all__ = ["judged", "page", "run", "stages"]

SEEDS = (1, 2, 3)
UP, NUM_STEPS = 4.0, 12
MODELS, RL, MEAN = ("preferred", "attributes"), ("stage_one", *(f"up_{name}" for name in ATTRIBUTES)), "mean"
RUNS = Path("runs/experiments")
_PLANTED = "experiments._planted_answers"


def stages(seed: int, num_steps: int = NUM_STEPS) -> list[dict[str, Any]]:
    """Data, policy, both reward models, and one run of reinforcement for ranked feedback and for every attribute."""
    sft = {"epochs": 16, "learning_rate": 5e-3, "sequences_per_step": 32, "eval_fraction": 0.0}
    quantiles, pairs = {"kind": "quantile", "num_levels": 4}, "bradley_terry"
    return [
        {f"{_PLANTED}:PlantedData": {"name": "data"}},
        {"sft": {"data": "data", "adapter": {"kind": "none"}, "training": sft}},
        {"reward": _judge("preferred", pairs, seed)},
        {"grpo": _policy("stage_one", "preferred", {"empty": "least"}, num_steps)},
        {"reward": _judge("attributes", quantiles, seed)},
        *({"grpo": _policy(f"up_{name}", "attributes", _weights(name), num_steps)} for name in ATTRIBUTES),
    ]


def _judge(name: str, objective: Any, seed: int) -> dict[str, Any]:
    training = {"epochs": 8, "learning_rate": 5e-3, "sequences_per_step": 32, "patience": 0, "objective": objective}
    source = {"kind": f"{_PLANTED}:PlantedAnswers", "seed": seed}
    return {
        "name": name, "source": source, "body": "adapter", "adapter": {"rank": 8},
        "parts": {"test_share": 0.2, "calibration_share": 0.1}, "training": training,
    }  # fmt: skip


def _weights(up: str) -> dict[str, Any]:
    return {"weights": {one: UP if one == up else 1.0 for one in ATTRIBUTES}, "empty": "least"}


def _policy(name: str, judge: str, how: Mapping[str, Any], num_steps: int) -> dict[str, Any]:
    training = {
        "num_steps": num_steps, "prompts_per_step": 8, "group_size": 16, "learning_rate": 1e-3,
        "eval_interval": num_steps, "keep": "last", "health": {"kl_limit": 5},
        "objective": {"kind": "grpo", "kl_coefficient": 0.02},
    }  # fmt: skip
    return {
        "name": name, "model": "sft", "reward_models": {judge: judge},
        "rewards": {"parts": {"good": {"reward": {"kind": "model", "name": judge, **how}}}},
        "tasks": [f"{_PLANTED}:PlantedPrompts"], "num_items": 64, "sampling": {"max_new_tokens": 48},
        "adapter": {"kind": "none"}, "pilot": {"num_prompts": 8},
        "exam": {"num_items": 40, "num_samples": 4, "temperature": 1.0}, "training": training,
    }  # fmt: skip


def run(results_folder: Path, quick: bool = False) -> None:
    """All seeds and arms; what is done so far is written after each seed."""
    found: dict[str, Any] = {"up": UP, "seeds": {}}
    rows: dict[str, list[dict[str, Any]]] = {name: [] for name in RL}
    for seed in SEEDS[:1] if quick else SEEDS:
        folder = one(seed, num_steps=4 if quick else NUM_STEPS)
        opened = {name: open_manifest(folder / name) for name in (*MODELS, *RL)}
        found["seeds"][str(seed)] = {
            **{name: _model_figures(opened[name]) for name in MODELS},
            **{name: _run_figures(opened[name]) for name in RL},
        }
        for name in RL:
            rows[name] += _both(opened[name], seed)
        found["stage_one"] = {
            "num_prompts": len(rows["stage_one"]),
            **{by: _gain(rows["stage_one"], by, MEAN) for by in ("truth", "model")},
        }
        found["arms"] = {name: judged(name, rows[f"up_{name}"]) for name in ATTRIBUTES}
        sys.stdout.write(page(found))
        write_json(results_folder / "rlhf_two.json", found)
        write_text(results_folder / "rlhf_two.md", page(found))
    manifest = json.loads((folder / f"up_{ATTRIBUTES[1]}" / "manifest.json").read_text(encoding="utf-8"))
    write_json(results_folder / "rlhf_two.manifest.json", manifest)


def one(seed: int, runs: Path = RUNS, num_steps: int = NUM_STEPS) -> Path:
    """The folder of one seed's run, which is taken up where it stands."""
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"rlhf_two-{seed}-{num_steps}.yaml"
    values = {"run": path.stem, "model": "tiny:llama", "seed": seed, "stages": stages(seed, num_steps)}
    write_text(path, yaml.safe_dump(values))
    recipe = recipes.load(path)
    # a result is looked at whatever the gates say; it is no release
    forced = frozenset(spec.name for spec in recipe.stages if spec.name != "data")
    keeper = ModelsKeeper(functools.partial(load, precision="float32"))
    result = run_recipe(recipe, runs, keeper, Options(allow_dirty=True, force=forced))
    if result.exit_code:
        raise SystemExit(f"{path}: {result.error}")
    return runs / path.stem


def _both(opened: Opened, seed: int) -> list[dict[str, Any]]:
    """Of every held-out prompt the means before and after, as counted and as the model reads; and what was counted in
    each answer before."""
    rows: dict[str, dict[str, Any]] = {}
    for when, output in (("before", "baseline"), ("after", "answer")):
        for answer in opened.records(output):
            row = rows.setdefault(answer.item_id, {"truth": {}, "model": {}})
            row["truth"].setdefault(when, []).append(_with_mean(truth(answer.text)))
            row["model"].setdefault(when, []).append(_read(answer))
    return [
        {
            "prompt": f"{seed} {item}",
            **{by: {when: _means(values) for when, values in row[by].items()} for by in ("truth", "model")},
            "answers": row["truth"]["before"],
        }
        for item, row in rows.items()
    ]


def _read(answer: Answer) -> dict[str, float]:
    """What the reward model said, attribute by attribute; of preferences it says one thing."""
    given = {name: answer.verdicts.get(f"good.{name}", {}).get("value") for name in ATTRIBUTES}
    return {MEAN: answer.verdicts["accuracy"]["value"], **{n: value for n, value in given.items() if value is not None}}


def _with_mean(values: Mapping[str, float]) -> dict[str, float]:
    return {MEAN: statistics.fmean(values.values()), **values}


def _means(rows: Sequence[Mapping[str, float]]) -> dict[str, float]:
    return {name: statistics.fmean(row[name] for row in rows) for name in rows[0]}


def judged(up: str, rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Gains with paired intervals, of each attribute and of `up` over each other one; prompts are drawn whole.

    What is compared is in deviations of the attribute over the answers before training, so that no scale decides.
    """
    deviations = {
        name: statistics.stdev(answer[name] for row in rows for answer in row["answers"]) for name in ATTRIBUTES
    }
    gains = {by: {name: _gain(rows, by, name) for name in ATTRIBUTES} for by in ("truth", "model")}
    over = {other: _over(rows, up, other, deviations) for other in ATTRIBUTES if other != up}
    return {
        "num_prompts": len(rows),
        "deviations": deviations,
        **gains,
        "over": over,
        "most": all(one["interval"]["low"] > 0 for one in over.values()),
    }


def _gain(rows: Sequence[Mapping[str, Any]], by: str, name: str) -> dict[str, Any]:
    before, after = ([row[by][when][name] for row in rows] for when in ("before", "after"))
    lift = plain(paired_bootstrap(before, after, num_resamples=4000))
    return {"before": statistics.fmean(before), "after": statistics.fmean(after), "lift": lift}


def _over(rows: Sequence[Mapping[str, Any]], up: str, other: str, deviations: Mapping[str, float]) -> Any:
    gained = {
        name: [(row["truth"]["after"][name] - row["truth"]["before"][name]) / deviations[name] for row in rows]
        for name in (up, other)
    }
    return plain(paired_bootstrap(gained[other], gained[up], num_resamples=4000))


def _model_figures(opened: Opened) -> dict[str, Any]:
    """How well a reward model judges what it was not fitted to: pairs told apart, or rank correlations."""
    figures = opened.manifest.figures
    told = {name: row["spearman"] for name, row in figures["attributes"].items()}
    return {
        "seconds": round(opened.manifest.spend["seconds"], 1),
        "spearman": told,
        "accuracy": figures["pairs"]["accuracy"] if figures["pairs"] else None,
        "passed": opened.manifest.gate["passed"],
    }


def _run_figures(opened: Opened) -> dict[str, Any]:
    figures = opened.manifest.figures
    return {
        "seconds": round(opened.manifest.spend["seconds"], 1),
        "passed": opened.manifest.gate["passed"],
        "stopped": figures["stopped"],
        "num_steps": figures["num_steps"],
        "sampled_tokens": figures["num_sampled_tokens"],
        "reward": figures["exam"]["graded"]["accuracy"]["lift"],
        "kl": figures["curves"]["kl"][-1][1],
        "body": next(iter(figures["reward_models"].values()))["body"],
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    one = result["stage_one"]
    return "\n".join([
        "# RLHF in two stages, the second with one attribute weighted up",
        "",
        f"Tiny models, seeds {', '.join(result['seeds'])}. Gains are counted in held-out answers, as shares of the "
        "scale, paired by prompt (95 %, bootstrap over prompts and seeds), beside what the reward model says of the "
        "same answers. Written by `python -m experiments rlhf_two`.",
        "",
        f"Stage one, ranked feedback ({one['num_prompts']} prompts): the mean of all attributes, by which answers were "
        f"ranked, {_cell(one['truth'], False)} counted; the model's reward {_cell(one['model'], False)}.",
        "",
        f"Stage two: a policy for each attribute, rewarded by a quantile model with that attribute's weight at "
        f"{result['up']:g} and the others' at 1.",
        "",
        *_arms(result["arms"]),
        "",
        "Gain of the attribute weighted up over another's, in deviations of the answers before training:",
        "",
        *_over_lines(result["arms"]),
        "",
        *_seeds(result["seeds"]),
    ]) + "\n"  # fmt: skip


def _arms(arms: Mapping[str, Any]) -> list[str]:
    lines = ["| weighted up | " + " | ".join(ATTRIBUTES) + " | improves most |", "|---" * (len(ATTRIBUTES) + 2) + "|"]
    for up, own in arms.items():
        for by, shown in (("truth", "counted"), ("model", "by the model")):
            cells = [_cell(own[by][name], name == up) for name in ATTRIBUTES]
            verdict = ("yes" if own["most"] else "NO") if by == "truth" else ""
            lines.append(f"| {up}, {shown} | " + " | ".join(cells) + f" | {verdict} |")
    return lines


def _over_lines(arms: Mapping[str, Any]) -> list[str]:
    return [
        f"- {up} ({own['num_prompts']} prompts): "
        + "; ".join(f"over {other} {_lift(lift)}" for other, lift in own["over"].items())
        for up, own in arms.items()
    ]


def _seeds(seeds: Mapping[str, Any]) -> list[str]:
    lines = [
        "| seed | stage | held out | KL | steps | tokens | seconds |",
        "|---:|---|---|---:|---:|---:|---:|",
    ]
    for seed, own in seeds.items():
        for name in MODELS:
            model = own[name]
            told = f"pairs told apart {model['accuracy']['rate']:.1%}" if model["accuracy"] else "rank correlation: "
            told += ", ".join(f"{attribute} {value:.2f}" for attribute, value in model["spearman"].items())
            lines.append(f"| {seed} | model {name} | {told} | | | | {model['seconds']} |")
        for name in RL:
            row = own[name]
            lines.append(
                f"| {seed} | {name} | reward {_lift(row['reward'])} | {row['kl']:.2f} | {row['num_steps']} | "
                f"{row['sampled_tokens']} | {row['seconds']} |"
            )
    return lines


def _cell(gain: Mapping[str, Any], bold: bool) -> str:
    text = f"{gain['before']:.2f} to {gain['after']:.2f}, {_lift(gain['lift'])}"
    return f"**{text}**" if bold else text


def _lift(lift: Mapping[str, Any]) -> str:
    return f"{lift['difference']:+.2f} [{lift['interval']['low']:+.2f}, {lift['interval']['high']:+.2f}]"
