"""Every preset of every architecture side by side: parameters, what a token uses of them, cache, products.

Networks are built on the meta device, so nothing is allocated. Writes sizes.json and sizes.md.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from rung.base.files import write_json, write_text
from rung.base.lookup import known, lookup
from rung.models.size import size_of

__all__ = ["page", "run"]


def run(results_folder: Path, quick: bool = False) -> None:
    """Count them all; `quick` counts the tiny ones."""
    found = {}
    for name in known("models.families"):
        family = lookup("models.families", name)
        for size, settings in family.SIZES.items():
            if not quick or size == "tiny":
                with torch.device("meta"):
                    network = family(settings)
                found[f"{name} {size}"] = {**asdict(network.shape), **asdict(size_of(network))}
    write_json(results_folder / "sizes.json", {"presets": found})
    write_text(results_folder / "sizes.md", page({"presets": found}))


def page(figures: Mapping[str, Any]) -> str:
    """The table, and what coder's reference shape costs beside the old one."""
    lines = [
        "# Presets",
        "",
        "Cache: bytes of keys and values per position in bfloat16. Products: of one token forward, attention's own",
        "left out. Vocabularies are the presets' own; another tokenizer changes embedding and output projection.",
        "",
        "| preset | layers | width | heads | vocabulary | context | parameters | active | cache | MFLOP per token |",
        "|---|---|---|---|---|---|---|---|---|---|",
    ]
    presets = figures["presets"]
    for name, p in presets.items():
        lines.append(
            f"| {name} | {p['num_layers']} | {p['width']} | {p['num_heads']}/{p['num_kv_heads']} | {p['vocabulary']:,} "
            f"| {p['max_context']:,} | {p['num_parameters']:,} | {p['num_active']:,} | {2 * p['cache_numbers']:,} "
            f"| {p['flops'] / 1e6:,.1f} |"
        )
    if "coder old" in presets:
        lines += ["", _beside(presets["coder reference"], presets["coder old"])]
    return "\n".join(lines) + "\n"


def _beside(new: Mapping[str, Any], old: Mapping[str, Any]) -> str:
    """The reference shape of coder in units of the old one."""
    ratios = {
        "parameters": "num_parameters",
        "active parameters": "num_active",
        "cache per position": "cache_numbers",
        "products per token": "flops",
    }
    told = ", ".join(f"{new[key] / old[key]:.2f} times the {name}" for name, key in ratios.items())
    return f"The reference shape of coder has, beside the old dense one: {told}."
