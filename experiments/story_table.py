"""Story models by size and state of tuning: 1M, 3M and 8M parameters, pretrained and tuned, three seeds.

The stories are those that `recipes/pretrain.yaml` made; run it before. Per seed everything after them is done anew:
tokenizer, networks, instructions, tuning, fifty openings and fifty requests with ten stories each. Writes
story_table.json and story_table.md.
"""

from __future__ import annotations

import statistics
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._recipes import RUNS, run_values
from rung.base.files import read_json, write_json, write_text
from rung.pipeline import recipe as recipes
from rung.pipeline.stages.evaluate_stories import EvaluateStories
from rung.records.manifest import open_manifest

__all__ = ["page", "recipe", "run"]

SEEDS = (1, 2, 3)
SIZES = ("1m", "3m", "8m")
STORIES = Path("runs/pretrain/corpus")
COLUMNS = {
    "without_fault": "without a fault", "ended": "ends itself", "keeps_to_hero": "comes back to its hero",
    "words_used": "words asked for used", "unseen": "runs of four not in the corpus",
}  # fmt: skip


def recipe(seed: int, stories: Path = STORIES, **exam: Any) -> dict[str, Any]:
    """Everything after the stories, for every size."""
    base = {one.kind: one.stage.settings for one in recipes.load(Path("recipes/pretrain.yaml")).stages}
    told = base["evaluate_stories"]
    pretraining, tuning = (base[name].training.model_dump(exclude_unset=True) for name in ("pretrain", "sft"))
    stages: list[dict[str, Any]] = [
        {"corpus": {"sources": [{"kind": "files", "path": str(shard)} for shard in _shards(stories)]}},
        {"tokenizer": {"corpus": "corpus", "trainer": {"vocabulary": 2048}, "held_out": 0.05}},
        {"tokens": {"corpus": "corpus", "tokenizer": "tokenizer", "held_out": 0.05}},
        {"make_instructions": {"name": "tasks", "data": "corpus", "pairs": {"per_document": 2}}},
    ]
    for size in SIZES:
        stages += [
            {"pretrain": {"name": f"pretrained_{size}", "tokens": "tokens", "training": pretraining,
                          "network": {"family": "llama", "size": size}, "samples": {"count": 1}}},
            {"sft": {"name": f"tuned_{size}", "model": f"pretrained_{size}", "data": "tasks",
                     "adapter": {"kind": "none"}, "training": tuning}},
        ]  # fmt: skip
    models = {f"{size} {state}": f"{state}_{size}" for size in SIZES for state in ("pretrained", "tuned")}
    settings = {"models": models, "corpus": "corpus", "reader": told.reader, "copies": 10, **exam}
    return {"run": f"story_table-{seed}", "seed": seed, "stages": [*stages, {"evaluate_stories": settings}]}


def _shards(stories: Path) -> list[Path]:
    """The documents of the stage, without its manifest and what it left out."""
    return sorted(stories.glob("document-*"))


def run(results_folder: Path, quick: bool = False, stories: Path = STORIES, runs: Path = RUNS) -> None:
    """Seed after seed; what is done so far is written after each, and not done again.

    Raises:
        SystemExit: there are no stories, or a run ended otherwise than by finishing.
    """
    if not (stories / "manifest.json").exists():
        raise SystemExit(f"{stories} has no stories: run `rung run recipes/pretrain.yaml` first")
    path = results_folder / "story_table.json"
    found: dict[str, Any] = read_json(path) if path.exists() and not quick else {"seeds": {}}
    exam = {"copies": 1, "num_openings": 3, "num_requests": 3} if quick else {}
    for seed in SEEDS[:1] if quick else SEEDS:
        if str(seed) not in found["seeds"]:
            found["seeds"][str(seed)] = one(seed, stories, runs, **exam)
            write_json(path, found)
            write_text(results_folder / "story_table.md", page(found))
            sys.stdout.write(page(found))


def one(seed: int, stories: Path, runs: Path, **exam: Any) -> dict[str, Any]:
    """The rows of a seed, and what each network had read."""
    folder, chosen = run_values(recipe(seed, stories, **exam), runs)
    opened = open_manifest(folder / "evaluate_stories")
    [stage] = [spec.stage for spec in chosen.stages if isinstance(spec.stage, EvaluateStories)]
    tokens = open_manifest(folder / "tokens").manifest.figures
    trained = {size: open_manifest(folder / f"pretrained_{size}").manifest for size in SIZES}
    return {
        "rows": stage.figures(opened)["rows"],
        "examples": {
            record.source: record.text for record in opened.records("told") if record.meta["asked"] == "request 0"
        },
        "documents": tokens["num_train_documents"],
        "tokens": tokens["num_train_tokens"],
        "networks": {
            size: {
                "parameters": manifest.model["num_parameters"],
                "bits_per_byte": manifest.figures["curves"]["held_out_bits_per_byte"],
                "published": manifest.figures["bits_per_byte"],
                "seconds": round(manifest.figures["seconds"], 1),
            }
            for size, manifest in trained.items()
        },
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    seeds = result["seeds"]
    first = next(iter(seeds.values()))
    lines = [
        "# Story models by size and state of tuning",
        "",
        f"{first['documents']} stories of a model of 135M parameters, {first['tokens']:,} tokens; fifty fixed openings "
        f"and fifty requests, ten stories each, seeds {', '.join(seeds)}. Means over seeds; the interval is the widest "
        "of the seeds' own (95 %, bootstrap over prompts) and covers every seed's mean. Bits per byte under "
        "SmolLM2-135M: of the texts told, lower is more foreseeable. Written by `python -m experiments story_table`.",
        "",
        "| network | " + " | ".join(COLUMNS.values()) + " | distinct-3 | bits per byte under SmolLM2 |",
        "|---|" + "---|" * len(COLUMNS) + "---:|---|",
    ]
    for name in first["rows"]:
        rows = [own["rows"][name] for own in seeds.values()]
        cells = [_cell([row[column] for row in rows], "%") for column in COLUMNS]
        distinct = f"{statistics.mean(row['distinct_3'] for row in rows):.2f}"
        bits = _cell([row["bits_per_byte"] for row in rows], "")
        lines.append(f"| {name} | {' | '.join(cells)} | {distinct} | {bits} |")
    lines += [
        "",
        "| size | parameters | held-out bits per byte by seed | at step | of | seconds |",
        "|---|---:|---|---|---:|---:|",
    ]
    for size in SIZES:
        own = [seed["networks"][size] for seed in seeds.values()]
        best = ", ".join(f"{one['published']:.3f}" for one in own)
        at = ", ".join(str(_step_of(one)) for one in own)
        last = max(one["bits_per_byte"][-1][0] for one in own)
        seconds = statistics.mean(one["seconds"] for one in own)
        lines.append(f"| {size} | {own[0]['parameters']:,} | {best} | {at} | {last} | {seconds:.0f} |")
    lines += ["", "Told by the networks of the first seed when asked for three words:", ""]
    for name, text in first["examples"].items():
        lines += [f"**{name}**", "", *[f"> {line}".rstrip() for line in text.strip().split("\n")], ""]
    return "\n".join(lines).rstrip() + "\n"


def _step_of(network: Mapping[str, Any]) -> int:
    return next(int(step) for step, bits in reversed(network["bits_per_byte"]) if bits == network["published"])


def _cell(found: Sequence[Mapping[str, float]], unit: str) -> str:
    mean = statistics.mean(one["mean"] for one in found)
    low, high = min(one["low"] for one in found), max(one["high"] for one in found)
    if unit:
        return f"{mean:.0%} [{low:.0%}, {high:.0%}]"
    return f"{mean:.2f} [{low:.2f}, {high:.2f}]"
