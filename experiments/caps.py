"""A cap hit in the middle of generation and one in the middle of training, each raised and run again.

The same recipe runs once without caps; its ledger says where the middles are. Then tokens are capped in the middle of
the large data stage, and the raised cap in the middle of SFT; the third start has no cap. Every shard and every file of
the adapter must come out equal to the byte, and no cap may be passed. Writes caps.json and caps.md.
"""

from __future__ import annotations

import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from experiments._runs import finished, ledger, spend_of, started
from experiments.kill_resume import GATED, RECIPE, differences
from rung.base.files import write_json, write_text

__all__ = ["page", "run"]

MIDDLES = (("scale", 0.5), ("sft", 0.5))
_ORDER = ("probe", "calibrate", "pilot", "scale", "data", "sft")


def run(results_folder: Path, quick: bool = False) -> None:
    """The uncapped run, the capped one, and what differs. `quick` caps generation alone."""
    with tempfile.TemporaryDirectory() as folder:
        recipe = Path(folder) / "recipe.yaml"
        write_text(recipe, RECIPE)
        whole, capped = Path(folder) / "whole" / "killed", Path(folder) / "capped" / "killed"
        code, _ = _run(recipe, whole.parent)
        attempts = []
        for stage, part in MIDDLES[:1] if quick else MIDDLES:
            cap = _tokens_until(whole, stage, part)
            attempts.append(_capped(recipe, capped, cap, stage))
        last, _ = _run(recipe, capped.parent)
        compared = differences(whole, capped)
        tokens = {"whole": round(spend_of(whole).tokens), "capped": round(spend_of(capped).tokens)}
    result = {"exit_codes": [code, last], "attempts": attempts, "tokens": tokens, "files": compared}
    sys.stdout.write(page(result))
    write_json(results_folder / "caps.json", result)
    write_text(results_folder / "caps.md", page(result))


def _run(recipe: Path, runs: Path, options: Sequence[str] = ()) -> tuple[int, str]:
    # so few records and items can fail a gate by chance; bytes are what is asked here
    forced = [word for stage in GATED for word in ("--force", stage)]
    return finished(started(recipe, runs, [*forced, *options]))


def _tokens_until(run_folder: Path, stage: str, part: float) -> int:
    """What an uncapped run had spent when `part` of a stage's tokens were spent."""
    before = sum(spend_of(run_folder, name).tokens for name in _ORDER[: _ORDER.index(stage)])
    return round(before + part * spend_of(run_folder, stage).tokens)


def _capped(recipe: Path, run_folder: Path, cap: int, stage: str) -> dict[str, Any]:
    code, said = _run(recipe, run_folder.parent, ("--set", f"budget.tokens={cap}"))
    last = ledger(run_folder)[-1]
    return {
        "wanted": stage,
        "cap": cap,
        "exit_code": code,
        "stopped_in": last["stage"],
        "outcome": last["outcome"],
        "spent": round(spend_of(run_folder).tokens),
        "said": said.splitlines()[:2],
    }


def page(result: Mapping[str, Any]) -> str:
    """The result as Markdown."""
    lines = [
        "# Caps on tokens, hit and raised",
        "",
        f"Without caps the run spent {result['tokens']['whole']} tokens, with them {result['tokens']['capped']} over "
        f"all attempts; exit codes of the uncapped starts {result['exit_codes']}. Written by "
        "`python -m experiments caps`.",
        "",
        "| cap | stopped in | outcome | exit code | spent |",
        "|---:|---|---|---:|---:|",
    ]
    for one in result["attempts"]:
        lines.append(f"| {one['cap']} | {one['stopped_in']} | {one['outcome']} | {one['exit_code']} | {one['spent']} |")
    lines += ["", "| stage | shards and adapter files | bytes | different |", "|---|---|---|---|"]
    for stage, row in result["files"].items():
        lines.append(f"| {stage} | {row['files']} | {row['bytes']} | {', '.join(row['different']) or 'none'} |")
    return "\n".join(lines) + "\n"
