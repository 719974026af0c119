"""MBPP (Austin et al. 2021, arXiv 2108.07732): short functions asked for in a sentence, from a JSON-lines file.

The file is the user's (`path`); its split is the published one: training items have the ids 601 to 974 and 511 to 600,
held-out ones 11 to 510. The ten few-shot items are in neither. The first test is shown, as the paper does; `code`
judges by all of them.
"""

from __future__ import annotations

import ast
import json
from pathlib import Path
from typing import Any

from rung.base.errors import DataError
from rung.base.seeds import stream
from rung.base.settings import Field, Settings
from rung.records.contracts import Item
from rung.scoring.task import Split

__all__ = ["Mbpp"]

_KEYS = ("text", "code", "task_id", "test_setup_code", "test_list")
_HELD_OUT = range(11, 511)
_FEW_SHOTS = range(1, 11)


class MbppSettings(Settings):
    """Where the file is."""

    path: Path = Field(description="JSON lines with the fields of the published file")
    num_shown: int = Field(default=1, ge=0, le=3, description="tests that the instruction shows")


class Mbpp:
    """The problems of a file."""

    Settings = MbppSettings

    def __init__(self, settings: MbppSettings) -> None:
        self.settings = settings

    def make(self, seed: int, count: int, split: Split = "train") -> list[Item]:
        """`count` problems of one part, chosen by the seed, in the order of the file.

        Raises:
            DataError: no such file, a line of another shape, or more items asked for than there are.
        """
        items = [item for number, item in self.all() if number not in _FEW_SHOTS and _split(number) == split]
        if count > len(items):
            raise DataError(f"{count} {split} items asked for, {len(items)} there", place="tasks.mbpp")
        chosen = set(stream(seed, "mbpp", split).sample(range(len(items)), count))
        return [item for place, item in enumerate(items) if place in chosen]

    def all(self) -> list[tuple[int, Item]]:
        """Every problem of the file with its number.

        Raises:
            DataError: see `make`.
        """
        try:
            lines = self.settings.path.read_text(encoding="utf-8").splitlines()
        except OSError as error:
            raise DataError(f"cannot read: {error.strerror}", place=str(self.settings.path)) from error
        return [self._item(line, number) for number, line in enumerate(lines, 1) if line.strip()]

    def _item(self, line: str, number: int) -> tuple[int, Item]:
        place = f"{self.settings.path.name}:{number}"
        try:
            row = json.loads(line)
            values = [row[key] for key in _KEYS]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"no MBPP problem: {error}", place=place) from error
        text, code, task_id, setup, tests = values
        name = _entry_point(code, tests, place)
        tests = [*tests, *row.get("challenge_test_list", ())]
        problem = {"entry_point": name, "tests": tests, "setup": setup}
        shown = "\n".join(tests[: self.settings.num_shown])
        instruction = f"{text.strip()} Call it `{name}`. Answer with the code only."
        reference: dict[str, Any] = {
            "checks": {"code": {"problem": problem}},
            "answer": code,
            "form": "code",
            "wrong": [f"def {name}(*given):\n    return None"],
            "key": str(task_id),
        }
        return task_id, Item(f"mbpp/{task_id}", f"{instruction}\n{shown}".strip(), "mbpp", reference)


def _split(number: int) -> Split:
    return "held_out" if number in _HELD_OUT else "train"


def _entry_point(code: str, tests: list[str], place: str) -> str:
    """The function of the solution that the first test calls; the outermost one if it calls several."""
    defined = {node.name for node in ast.walk(ast.parse(code)) if isinstance(node, (ast.FunctionDef, ast.ClassDef))}
    for node in ast.walk(ast.parse(tests[0])):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in defined:
            return node.func.id
    raise DataError("its tests call nothing that its solution defines", place=place)
