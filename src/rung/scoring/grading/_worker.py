"""A process that grades: it has a sandbox of its own, reads a job per line, says that it has it, and says its grade."""

from __future__ import annotations

import importlib
import json
import os
import resource
import sys
from typing import Any, TextIO

from rung.base.errors import RungError
from rung.base.settings import validate
from rung.records.types import from_plain, to_plain
from rung.scoring.grading.grade import GradingSettings, grade
from rung.scoring.grading.problem import Grade, Problem
from rung.scoring.sandbox.contract import Sandbox
from rung.scoring.sandbox.ladder import climb
from rung.scoring.sandbox.settings import SandboxSettings

__all__ = ["main", "open_sandbox"]


def open_sandbox(settings: SandboxSettings) -> tuple[Sandbox, dict[str, object]]:
    """The highest rung of the ladder that holds here, with its record.

    Raises:
        SandboxRefused: none does.
    """
    chosen = climb(settings)
    return chosen.sandbox, chosen.record()


def main(opener: str, settings: str, memory_bytes: int) -> None:
    """Serve till standard input closes. `opener` is `module:function`, which opens the sandbox from its settings.

    Standard output is kept for answers; what tests print goes nowhere.
    """
    answers = os.fdopen(os.dup(1), "w")
    sys.stdout = open(os.devnull, "w")  # noqa: SIM115 - for the life of the process
    module, _, name = opener.partition(":")
    try:
        sandbox, record = getattr(importlib.import_module(module), name)(SandboxSettings.model_validate_json(settings))
    except RungError as error:
        _say(answers, {"refused": str(error)})
        return
    _say(answers, {"record": record})
    try:
        _, hard = resource.getrlimit(resource.RLIMIT_AS)
        resource.setrlimit(resource.RLIMIT_AS, (memory_bytes, hard))
        for line in sys.stdin:
            _say(answers, {"taken": True})
            _say(answers, to_plain(_graded(json.loads(line), sandbox)))
    finally:
        sandbox.close()


def _say(answers: TextIO, what: dict[str, Any]) -> None:
    answers.write(json.dumps(what) + "\n")
    answers.flush()


def _graded(job: dict[str, Any], sandbox: Sandbox) -> Grade:
    problem = from_plain(Problem, job["problem"])
    settings = validate(GradingSettings, job["settings"], "grading")
    try:
        return grade(problem, job["solution"], sandbox, settings)
    except (RungError, OSError) as error:
        return Grade("infrastructure", 0, len(problem.tests), str(error)[:500])


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], int(sys.argv[3]))
