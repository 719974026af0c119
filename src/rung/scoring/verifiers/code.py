"""A Python function that passes the task's tests. The code runs in the sandbox; the tests and their answers do not.

The reply's code is read by the rules of `scoring.grading.extract` and graded by `scoring.grading`: no code, a syntax
error, a wrong result, a limit passed or an answer that no honest program gives is 0 with its reason. What a static
scan finds (frames, memory, tracing) is told in the reason and changes nothing. A failure of the sandbox abstains.

It does not judge style, speed within the limit, or what no test asks for.
"""

from __future__ import annotations

from functools import lru_cache

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.grading.extract import code_in
from rung.scoring.grading.grade import GradingSettings
from rung.scoring.grading.problem import Grade, ProblemSettings, problem_of
from rung.scoring.grading.workers import Graders, WorkerSettings
from rung.scoring.verifier import Verifier, abstain, verdict

__all__ = ["Code"]

_ADD = {"entry_point": "add", "pairs": [[[1, 2], 3], [[-1, 1], 0]]}
_WORDS = {"entry_point": "words", "tests": ["assert words('a b a') == {'a': 2, 'b': 1}"]}


class CodeSettings(Settings):
    """The task and how its tests are counted."""

    problem: ProblemSettings = Field(description="the function and its tests")
    partial: bool = Field(False, description="give the share of tests that hold; otherwise 1 for all and 0")
    hidden: bool = Field(True, description="use the hidden tests as well")
    cpu_seconds: float = Field(5.0, gt=0, le=600, description="processor time for all tests of a reply")


class Code(Verifier[CodeSettings]):
    """Whether the reply's function passes."""

    Settings = CodeSettings
    INSTRUCTION = "Write a Python function `add(a, b)` that returns the sum of two numbers."
    EXAMPLES = (
        ({"problem": _ADD}, "Sure.\n```python\ndef add(a, b):\n    return a + b\n```\nIt adds.", True),
        ({"problem": _ADD}, "def add(a, b):\n    return a + b", True),
        ({"problem": _ADD}, "```python\ndef add(a, b):\n    return a - b\n```", False),
        ({"problem": _ADD}, "```python\ndef plus(a, b):\n    return a + b\n```", False),
        ({"problem": _ADD}, "```python\ndef add(a, b)\n    return a + b\n```", False),
        (
            {"problem": _ADD},
            "class Yes:\n    def __eq__(self, other):\n        return True\n\ndef add(a, b):\n    return Yes()",
            False,
        ),
        ({"problem": _ADD}, "import os\n\ndef add(a, b):\n    os._exit(0)", False),
        (
            {"problem": _WORDS},
            "from collections import Counter\n\ndef words(text):\n    return Counter(text.split())",
            True,
        ),
    )

    def __init__(self, settings: CodeSettings, graders: Graders | None = None) -> None:
        super().__init__(settings)
        self._graders = graders
        self._problem = problem_of(settings.problem, settings.hidden)

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        code = code_in(reply, self._problem.entry_point)
        if not code:
            return verdict(False, f"no code that defines '{self._problem.entry_point}'")
        graders = self._graders or _graders(self.settings.cpu_seconds, self.settings.partial)
        return self._score(graders.grade([(self._problem, code)])[0])

    def _score(self, grade: Grade) -> Score:
        if grade.ending == "infrastructure":
            return abstain(grade.reason)
        value = grade.share if self.settings.partial else float(grade.passed)
        said = [grade.reason or f"all {grade.num_tests} tests hold", *(f"alarm: {one}" for one in grade.alarms)]
        parts = {"tests": float(grade.num_tests), "passed": float(grade.num_passed), "alarms": float(len(grade.alarms))}
        return Score(value, "; ".join(said), parts)


@lru_cache(maxsize=8)
def _graders(cpu_seconds: float, partial: bool) -> Graders:
    """Workers for all verifiers with these settings; they end with this process."""
    return Graders(WorkerSettings(), GradingSettings(cpu_seconds=cpu_seconds, all_tests=partial))
