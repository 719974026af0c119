"""What a training step of coder holds in memory at width 1024 and at 1536, part by part, layers kept or recomputed.

The reference shape of coder, and the same with everything but the depth two thirds as wide. Every layer runs, and equal
ones share their weights' memory while they are measured, so that nothing is multiplied and little is needed
(`rung.models.initialise.stand_in`). Every weight is trained, in float32 and with products in bfloat16, in rows of
documents of 512 tokens. Writes memory_parts.json and memory_parts.md.
"""

from __future__ import annotations

import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rung.base.files import write_json, write_text
from rung.models.families.coder import Coder
from rung.models.initialise import stand_in
from rung.models.size import size_of
from rung.train.adapters import prepare
from rung.train.memory import step_memory
from rung.train.settings import AdapterSettings
from rung.train.update import Precision

__all__ = ["page", "run"]

REFERENCE = Coder.SIZES["reference"]
SHAPES = {
    "width 1024": REFERENCE.model_copy(update={"width": 1024, "inner_width": 1344, "num_heads": 16, "num_kv_heads": 4}),
    "width 1536": REFERENCE,
}
QUICK = {"width 64": Coder.SIZES["tiny"]}
PRECISIONS: tuple[Precision, ...] = ("float32", "bfloat16")
ROW, GIB = 8192, 2**30
_WAYS = ("kept", "recomputed")


def run(results_folder: Path, quick: bool = False) -> None:
    """Every shape in both precisions."""
    shapes, tokens = (QUICK, 64) if quick else (SHAPES, 512)
    arms = []
    for name, settings in shapes.items():
        network = stand_in(lambda: Coder(settings))  # noqa: B023 - made at once
        prepare(network, AdapterSettings(kind="none"), seed=0)
        size = {"num_layers": settings.num_layers, "num_parameters": size_of(network).num_parameters}
        for precision in PRECISIONS:
            found = step_memory(network, tokens, precision=precision)
            arms.append({"shape": name, "precision": precision, **size, **asdict(found), **_totals(found)})
    result = {"tokens": tokens, "row": ROW, "arms": arms}
    sys.stdout.write(page(result))
    results_folder.mkdir(parents=True, exist_ok=True)
    write_json(results_folder / "memory_parts.json", result)
    write_text(results_folder / "memory_parts.md", page(result))


def _totals(found: Any) -> dict[str, float]:
    again = found.total(ROW, recompute=True)
    return {"total": found.total(ROW), "total_again": again, "most_again": again + found.layer.of(ROW)}


def page(result: Mapping[str, Any]) -> str:
    """A table for every shape and precision."""
    lines = [
        "# What a training step holds, by part",
        "",
        f"AdamW, every weight trained, documents of {result['tokens']} tokens. Weights, gradients and state (the "
        "optimizer's) in MiB. Kept from the forward pass of a row to its backward pass: MiB of every row, whatever its "
        "length (weights in bfloat16, the output projection's gradient, rows that fill up experts), and KiB of each of "
        "its tokens; again: the same with `recompute`. Each storage is counted once, for the part that saved it first. "
        "Written by `python -m experiments memory_parts`.",
    ]
    for arm in result["arms"]:
        lines += ["", *_table(arm, result["row"])]
    return "\n".join(lines) + "\n"


def _table(arm: Mapping[str, Any], row: int) -> list[str]:
    lines = [
        f"## {arm['shape']}, {arm['precision']}: {arm['num_layers']} layers, {arm['num_parameters']:,} parameters",
        "",
        "| part | weights | gradients | state | kept | a token | again | a token |",
        "|---|---:|---:|---:|---:|---:|---:|---:|",
    ]
    for name, part in arm["parts"].items():
        if part["weights"] or part["kept"]["per_token"] or part["recomputed"]["per_token"]:
            held = " | ".join(f"{part[key] / 2**20:,.1f}" for key in ("weights", "gradients", "state"))
            cells = [f"{part[way]['fixed'] / 2**20:,.1f} | {part[way]['per_token'] / 2**10:,.1f}" for way in _WAYS]
            lines.append(f"| {name} | {held} | {' | '.join(cells)} |")
    total, again, most = (arm[key] / GIB for key in ("total", "total_again", "most_again"))
    return [
        *lines,
        "",
        f"A row of {row:,} tokens: {total:.2f} GiB in all; with recompute {again:.2f}, and {most:.2f} while the "
        "largest layer is computed again.",
    ]
