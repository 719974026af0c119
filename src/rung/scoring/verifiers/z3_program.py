"""A small Python function that must meet the task's contract for all inputs, proved by Z3 rather than tested.

The reply is one function of the task's name and parameters, in a code block or alone; it is translated, never run.
Contract, name and parameters are the task's: assertions, other functions and default values are refused, so that no
weaker statement can be proved instead. The language (`apart/language.py`): whole numbers, truth values, if, for over a
constant range, + - * // %, comparisons, and/or/not, abs, min, max. A division by zero and a missing return fail.

A refuted answer's reason holds the failing input. Abstains when Z3 cannot decide (by default).
"""

from __future__ import annotations

import textwrap

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.final_segments import block
from rung.scoring.proving import ProofSettings, prover
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Z3Program"]

_CLAMP = {
    "signature": "clamp(x, low, high)",
    "requires": "low <= high",
    "ensures": "low <= result <= high and (result == x or x < low or x > high)",
}
_GOOD = "def clamp(x, low, high):\n    return max(low, min(x, high))"


class Z3ProgramSettings(Settings):
    """The task's contract."""

    signature: str = Field(pattern=r"^\w+\(\w+(, ?\w+)*\)$", description="name and parameters of the function")
    requires: str = Field(default="True", description="what the function may take for granted")
    ensures: str = Field(min_length=1, description="what must hold of the parameters and `result`")
    proof: ProofSettings = Field(default=ProofSettings(), description="numbers, effort, and what outcomes earn")


class Z3Program(Verifier[Z3ProgramSettings]):
    """Whether the reply's function meets the contract."""

    Settings = Z3ProgramSettings
    INSTRUCTION = "Write the function."
    EXAMPLES = (
        (_CLAMP, f"```python\n{_GOOD}\n```\nThis works.", True),
        (_CLAMP, "def clamp(x, low, high):\n    if x < low:\n        return low\n    return min(x, high - 1)", False),
        (_CLAMP, "def clamp(x, low, high):\n    if x < low:\n        return low", False),
        (_CLAMP, "def clamp(x, low, high):\n    assert False\n    return x", False),
        (_CLAMP, "def clamp(x, low, high=0):\n    return max(low, min(x, high))", False),
        (_CLAMP, "def clamp(x, low, high):\n    return eval('x')", False),
        (_CLAMP, f"{_GOOD}\nrequires = False", False),
        ({"signature": "half(n)", "ensures": "2 * result <= n < 2 * result + 2"}, "def half(n): return n // 2", True),
        ({"signature": "f(n)", "ensures": "result > n", "proof": {"domain": "bits8"}}, "def f(n): return n + 1", False),
        ({"signature": "f(n)", "requires": "n > n", "ensures": "result > n"}, "def f(n): return n", None),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        source = textwrap.dedent(block(reply)).strip()
        if not source:
            return verdict(False, "no single piece of code")
        name, _, rest = self.settings.signature.partition("(")
        parameters = [part.strip() for part in rest.rstrip(")").split(",")]
        ask = {"kind": "program", "source": source, "name": name, "parameters": parameters}
        contract = {"requires": self.settings.requires, "ensures": self.settings.ensures}
        return prover().prove({**ask, **contract}, self.settings.proof).score(self.settings.proof)
