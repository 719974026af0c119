"""A mixture of experts against a dense network of equal active parameters, on programs, at equal tokens.

The corpus is Python's standard library, cut and encoded once for all seeds. Per seed three networks read the same
windows: experts held in even use by an auxiliary loss, by a bias without gradient, and none at all, the dense
feed-forward layer as wide as the experts that a token uses together. Held-out bits per byte, and every expert's share
of the tokens over time. Writes experts_dense.json and experts_dense.md.
"""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._recipes import RUNS, run_values
from rung.base.files import read_json, write_json, write_text
from rung.models.families.coder import Coder
from rung.models.size import size_of
from rung.records.manifest import open_manifest

__all__ = ["ARMS", "page", "recipe", "run"]

SEEDS = (1, 2, 3)
SIZE = "tiny"
_T_OF_TWO = 4.303  # Student's t at 95 % with two degrees of freedom
ARMS: dict[str, dict[str, Any]] = {
    "experts, auxiliary loss": {},
    "experts, bias": {"balance_weight": 0.0, "bias_rate": 1e-3, "scoring": "sigmoid"},
    "dense": {"num_experts": 0, "balance_weight": 0.0},
}


def recipe(seed: int, sizes: Mapping[str, Any]) -> dict[str, Any]:
    """All networks of a seed, on one corpus."""
    training = {
        "precision": "bfloat16", "sequences_per_step": 16, "eval_interval": 50, "checkpoint_interval": 0,
        "eval_fraction": 0.5, **sizes.get("training", {}),
    }  # fmt: skip
    made = Coder.SIZES[SIZE]
    stages: list[dict[str, Any]] = [
        {
            "corpus": {
                "sources": [{"kind": "standard_library", **sizes.get("source", {})}],
                "checks": {"max_chars": 200000},
            }
        },
        {"tokenizer": {"corpus": "corpus", "trainer": {"vocabulary": 2048, "rule": "code"}, "held_out": 0.05}},
        {"tokens": {"corpus": "corpus", "tokenizer": "tokenizer", "held_out": 0.05}},
    ]
    for name, change in ARMS.items():
        wide = {"inner_width": made.inner_width * made.num_active} if name == "dense" else {}
        stages.append({"pretrain": {
            "name": _stage(name), "tokens": "tokens", "training": training,
            "network": {"family": "coder", "size": SIZE, "change": {**change, **wide}},
            "samples": {"max_new_tokens": 32, "count": 1},
        }})  # fmt: skip
    return {"run": f"experts_dense-{seed}", "seed": seed, "stages": stages}


def _stage(arm: str) -> str:
    return arm.replace(", ", "_").replace(" ", "_")


def run(results_folder: Path, quick: bool = False, runs: Path = RUNS) -> None:
    """Seed after seed; what is done so far is written after each, and not done again."""
    path = results_folder / "experts_dense.json"
    found: dict[str, Any] = read_json(path) if path.exists() and not quick else {"seeds": {}}
    sizes: dict[str, Any] = {"training": {"max_windows": 12_000}}
    if quick:
        sizes = {"training": {"max_windows": 64, "eval_fraction": 0.02}, "source": {"modules": ["json", "string"]}}
    for seed in SEEDS[:1] if quick else SEEDS:
        if str(seed) not in found["seeds"]:
            found["seeds"][str(seed)] = one(seed, sizes, runs)
            write_json(path, found)
            write_text(results_folder / "experts_dense.md", page(found))
            sys.stdout.write(page(found))


def one(seed: int, sizes: Mapping[str, Any], runs: Path) -> dict[str, Any]:
    """Every arm of a seed.

    Raises:
        SystemExit: the run ended otherwise than by finishing.
    """
    folder, _ = run_values(recipe(seed, sizes), runs)
    return {arm: _arm(folder, arm) for arm in ARMS}


def _arm(folder: Path, arm: str) -> dict[str, Any]:
    manifest = open_manifest(folder / _stage(arm)).manifest
    network = Coder.build(Coder.Settings(**manifest.model["settings"]))
    counted = size_of(network)
    return {
        "parameters": counted.num_parameters,
        "active": counted.num_active,
        "bits_per_byte": manifest.figures["curves"]["held_out_bits_per_byte"],
        "tokens": manifest.figures["num_trained_tokens"],
        "seconds": round(manifest.figures["seconds"], 1),
        "loads": _loads(folder / "events.jsonl", _stage(arm)),
    }


def _loads(events: Path, stage: str) -> dict[str, list[float]]:
    """Over the steps: the largest violation of any layer, and of every expert its share of the assignments."""
    found: dict[str, list[float]] = {}
    for line in events.read_text(encoding="utf-8").splitlines():
        event = json.loads(line)
        name = event.get("name", "")
        if event["kind"] == "metric" and event.get("stage") == stage and "/experts/" in name:
            figure = name.rpartition("/")[2]
            if figure == "max_violation" or figure.startswith("load_"):
                found.setdefault(figure, []).append(round(event["value"], 4))
    return found


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    seeds = result["seeds"]
    first = next(iter(seeds.values()))
    lines = [
        "# A mixture of experts against a dense network of equal active parameters",
        "",
        f"coder {SIZE}, Python's standard library, {first['dense']['tokens']:,} tokens trained on, held-out bits per "
        "byte (documents that no network saw). Difference from dense on the same seed: mean with Student's 95 % "
        "interval over the seeds. Written by `python -m experiments experts_dense`.",
        "",
        "| network | parameters | active | bits per byte by seed | mean | less dense | seconds |",
        "|---|---:|---:|---|---:|---|---:|",
    ]
    for arm in ARMS:
        rows = [own[arm] for own in seeds.values()]
        last = [row["bits_per_byte"][-1][1] for row in rows]
        dense = [own["dense"]["bits_per_byte"][-1][1] for own in seeds.values()]
        difference = "-" if arm == "dense" else _interval([a - b for a, b in zip(last, dense, strict=True)])
        lines.append(
            f"| {arm} | {rows[0]['parameters']:,} | {rows[0]['active']:,} | {', '.join(f'{x:.4f}' for x in last)} | "
            f"{statistics.mean(last):.4f} | {difference} | {statistics.mean(row['seconds'] for row in rows):.0f} |"
        )
    return "\n".join([*lines, "", *_use(seeds), "", *_curve(seeds)]) + "\n"


def _interval(differences: Sequence[float]) -> str:
    mean = statistics.mean(differences)
    if len(differences) != 3:
        return f"{mean:+.4f}"
    half = _T_OF_TWO * statistics.stdev(differences) / 3**0.5
    return f"{mean:+.4f} [{mean - half:+.4f}, {mean + half:+.4f}]"


def _use(seeds: Mapping[str, Any]) -> list[str]:
    """Expert load over time: means over ten steps at the beginning, in the middle and at the end."""
    lines = [
        "Use of the experts over time, means of ten steps: the largest load of a layer over the even one, less one; "
        "and the share of the least and of the most used expert.",
        "",
        "| network | seed | at first | in the middle | at last | least / most used at last |",
        "|---|---:|---:|---:|---:|---|",
    ]
    for arm in ARMS:
        for seed, own in seeds.items():
            loads = own[arm]["loads"]
            if not loads:
                continue
            violation = loads["max_violation"]
            middle = len(violation) // 2
            parts = (violation[:10], violation[middle : middle + 10], violation[-10:])
            shares = sorted(statistics.mean(v[-10:]) for name, v in loads.items() if name.startswith("load_"))
            cells = " | ".join(f"{statistics.mean(part):.2f}" for part in parts)
            lines.append(f"| {arm} | {seed} | {cells} | {shares[0]:.1%} / {shares[-1]:.1%} |")
    return lines


def _curve(seeds: Mapping[str, Any]) -> list[str]:
    """Held-out bits per byte over the steps, means over seeds."""
    steps = [step for step, _ in next(iter(seeds.values()))["dense"]["bits_per_byte"]]
    chosen = sorted({round(place * (len(steps) - 1) / 6) for place in range(7)})
    lines = ["| step | " + " | ".join(ARMS) + " |", "|---:|" + "---:|" * len(ARMS)]
    for place in chosen:
        means = [statistics.mean(own[arm]["bits_per_byte"][place][1] for own in seeds.values()) for arm in ARMS]
        lines.append(f"| {steps[place]} | " + " | ".join(f"{mean:.3f}" for mean in means) + " |")
    return lines
