"""Small programs for a model that fits in a test: one function is asked for, and data in which four are equally likely.

After training on these data the model writes programs that run, and about one in four is what was asked for: the tests
have to tell it which.
"""

from __future__ import annotations

import random
from collections.abc import Mapping
from typing import Any

from rung.base.settings import Field, Settings
from rung.pipeline.stage import Context, Outputs, Stage
from rung.records.chat.frame import Frame
from rung.records.manifest import Opened
from rung.records.types import SftRecord, record_id
from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["BODIES", "TinyData", "TinyFunctions", "program"]

BODIES = {"sum": "a + b", "less": "a - b", "times": "a * b", "most": "max(a, b)"}
_PAIRS = [[2, 5], [7, 3], [4, 4], [-1, 6]]


class TinyFunctions(Generated[TaskSettings]):
    """The sum of two numbers, to be written as `f`; the item's number only tells items apart."""

    Settings = TaskSettings

    def draw(self, rng: random.Random) -> Question:
        """One function."""
        name, number = "sum", rng.randrange(10_000)
        problem = {"entry_point": "f", "pairs": [[pair, sum(pair)] for pair in _PAIRS]}
        wrong = tuple(program(body) for other, body in BODIES.items() if other != name)
        return Question(
            f"{name} {number}",
            program(BODIES[name]),
            {"code": {"problem": problem}},
            f"{name} {number}",
            "code",
            wrong,
        )


class TinyData(Stage):
    """Every instruction answered by a body that was drawn without looking at it."""

    class Settings(Settings):
        """How many, of what."""

        count: int = Field(512, ge=1, description="records")
        asked: str = Field("sum", description="what every instruction asks for")
        bodies: dict[str, str] = Field(BODIES, min_length=1, description="what answers return, each equally likely")

    outputs: Mapping[str, str] = {"sft": "sft"}

    def run(self, context: Context, inputs: Mapping[str, Opened], outputs: Outputs) -> None:
        """One shard."""
        rng, own = random.Random(context.seed), self.settings
        records = [
            _record(n, f"{own.asked} {rng.randrange(10_000)}", own.bodies[rng.choice(sorted(own.bodies))])
            for n in range(own.count)
        ]
        outputs.shard("sft", 0, records)

    def figures(self, output: Opened) -> dict[str, Any]:
        """A count that stands for quality control: the programs are ours."""
        return {"qc": {"records": output.count("sft")}}


def program(body: str) -> str:
    """A function of two numbers that returns it."""
    return f"def f(a, b):\n    return {body}"


def _record(number: int, instruction: str, body: str) -> SftRecord:
    response = program(body)
    return SftRecord(
        id=record_id(number, instruction),
        instruction=instruction,
        response=response,
        type="tiny_functions",
        prompt=Frame.prompt(instruction),
        training_prompt=Frame.prompt(instruction),
        completion=Frame.completion(response),
        raw_response=response,
        finish_reason="eos",
        num_response_tokens=-1,
        instruction_critique=None,
        pair_critique=None,
        metadata={"loader_version": "1", "model_name": "written by hand", "git_commit": "experiments", "seed": number},
    )
