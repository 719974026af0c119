"""A mathematical answer, equal to the gold one in any form: 1/2, 0.5 and \\frac{2}{4}, or x^2+2x+1 and (x+1)^2.

The reply's final answer (boxed, behind "Answer:", or its only line) is compared by math-verify over sympy, gold first,
in a process of its own with a limit of processor seconds. Several stated answers must all be right. Floats are rounded
to `decimals` places, so 0.333 is not 1/3.

Refuses, with a reason: what cannot be read, numbers side by side ("1 2 3" would be read as their product), an
expression copied from the instruction, integrals and sums left standing, answers that use up the time. Abstains when
the gold answer cannot be read or the process fails. It does not check the way to the answer.
"""

from __future__ import annotations

import re

from rung.base.errors import WorkerLost
from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.apart.client import Overrun, shared
from rung.scoring.final_segments import final_segments
from rung.scoring.verifier import Verifier, abstain, verdict

__all__ = ["Math"]

_LONGEST = 500
_UNFINISHED = re.compile(r"\\(?:int|sum|prod|lim|oint)(?![a-zA-Z])")
_SIDE_BY_SIDE = re.compile(r"\d\s+[\d.]|\bor\b|\band\b")
_FUNCTION = re.compile(r"(?<![\\a-zA-Z])(sqrt|sin|cos|tan|log|ln|exp|pi)\b")
_PLAIN_ROOT = re.compile(r"\\sqrt\(([^()]*)\)")
_MARKS = "\"'`*_$ \t\n"


class MathSettings(Settings):
    """The right answer and how closely it is compared."""

    gold: str = Field(min_length=1, max_length=_LONGEST, description="the right answer, LaTeX or plain")
    decimals: int = Field(default=10, ge=1, le=15, description="places that floats are rounded to")
    may_copy: bool = Field(default=False, description="whether an expression of the instruction may be the answer")
    seconds: float = Field(default=5.0, gt=0, le=60, description="processor seconds for one comparison")


class Math(Verifier[MathSettings]):
    """Whether the final answer is mathematically the right one."""

    Settings = MathSettings
    INSTRUCTION = "Compute 7 + 5, or half of one."
    EXAMPLES = (
        ({"gold": "1/2"}, "The answer is \\boxed{\\frac{2}{4}}.", True),
        ({"gold": "1/2"}, "0.5", True),
        ({"gold": "1/3"}, "0.333", False),
        ({"gold": "12"}, "7 + 5", False),
        ({"gold": "6"}, "1 2 3", False),
        ({"gold": "12"}, "\\boxed{11} \\boxed{12}", False),
        ({"gold": "\\sqrt{2}"}, "Answer: sqrt(2)", True),
        ({"gold": "(x+1)^2"}, "x^2 + 2*x + 1", True),
        ({"gold": "x^2"}, "$\\int_0^x 2t dt$", False),
        ({"gold": "9", "seconds": 0.5}, "9^{9^{9^{9}}} - 9^{9^{9}}", False),
        ({"gold": "\\frac{"}, "12", None),
        ({"gold": "1000"}, "**1,000.**", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        if len(reply) > 40 * _LONGEST:
            return verdict(False, f"longer than {40 * _LONGEST} characters")
        said = [plain for text in final_segments(reply) if (plain := _plain(text))]
        if not said:
            return verdict(False, "states no answer")
        for text in dict.fromkeys(said):
            if problem := self._unfit(instruction, text):
                return verdict(False, problem)
        scores = [self._compared(text) for text in dict.fromkeys(said)]
        return next((score for score in scores if score.value != 1.0), scores[0])

    def _unfit(self, instruction: str, text: str) -> str:
        """Why a text is no answer whatever its value; empty when it may be one."""
        if len(text) > _LONGEST or "\n" in text:
            return "no single short answer"
        if _SIDE_BY_SIDE.search(text):
            return f"several values in {text[:40]!r}"
        if _UNFINISHED.search(text) and not _UNFINISHED.search(self.settings.gold):
            return "left to be worked out"
        copied = re.search(r"\d\s*[-+*/^]|\)\s*[-+*/^(]", text) and _close(text) in _close(instruction)
        return "copied from the instruction" if copied and not self.settings.may_copy else ""

    def _compared(self, text: str) -> Score:
        ask = {"gold": _latex(self.settings.gold), "given": _latex(text), "decimals": self.settings.decimals}
        try:
            found = shared("mathematics").call(ask, self.settings.seconds)
        except Overrun as overrun:
            return verdict(False, f"{overrun} on {text[:40]!r}")
        except WorkerLost as lost:
            return abstain(str(lost.message))
        if not found["gold"]:
            return abstain(f"the gold answer {self.settings.gold[:40]!r} cannot be read")
        return verdict(found["same"], f"read {found['read']}" if found["read"] else f"cannot read {text[:40]!r}")


def _plain(text: str) -> str:
    return text.strip(_MARKS).rstrip(".").strip(_MARKS)


def _latex(text: str) -> str:
    """Names of functions as LaTeX spells them; math-verify reads `sqrt(2)` as four letters times two."""
    commands = _FUNCTION.sub(r"\\\1", _plain(text))
    return _PLAIN_ROOT.sub(r"\\sqrt{\1}", commands)


def _close(text: str) -> str:
    return "".join(text.split())
