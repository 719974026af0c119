"""Does a property of a small function hold for all inputs? The reply says so, or gives values for which it fails.

Function, property and assumptions are the task's. "It always holds" earns when Z3 proves it; "fails for x = 3" earns
when the property really fails there, whichever counter-example it is. A bare "no" earns nothing: it could be guessed.

Abstains when Z3 cannot decide (by default) or the task's own text is outside the language (`apart/language.py`).
"""

from __future__ import annotations

import re

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.final_segments import final_segments
from rung.scoring.proving import Proof, ProofSettings, prover
from rung.scoring.reading import words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Z3Property"]

_ALWAYS = frozenset({"always", "holds"})
_AROUND = frozenset("yes it the claim property is true for all every any integer integers value values of x".split())
_MOST_WORDS = 6
_VALUE = re.compile(r"\b([A-Za-z_]\w*)\s*=\s*(-?\d{1,30})\b")
_AT_POINT: dict[str, Proof] = {  # a reply that names values is right where the claim fails there
    "refuted": Proof("proved", "the property fails there"),
    "proved": Proof("refuted", "the property holds there"),
    "vacuous": Proof("refuted", "the values do not meet the assumptions"),
}


class Z3PropertySettings(Settings):
    """The task's statement."""

    source: str = Field(min_length=1, max_length=4000, description="the function, in the small language")
    claim: str = Field(min_length=1, description="what is claimed of its parameters and `result`")
    assume: str = Field(default="True", description="what may be taken for granted about the parameters")
    proof: ProofSettings = Field(default=ProofSettings(), description="numbers, effort, and what outcomes earn")


_SQUARE = "def f(x):\n    return x * x"


class Z3Property(Verifier[Z3PropertySettings]):
    """Whether the reply is right about the property."""

    Settings = Z3PropertySettings
    INSTRUCTION = "Does the property hold for all integers? Answer always, or give values for which it fails."
    EXAMPLES = (
        ({"source": _SQUARE, "claim": "result > x"}, "no", False),
        ({"source": _SQUARE, "claim": "result > x"}, "x = 2", False),
        ({"source": _SQUARE, "claim": "result > x"}, "It fails for x = 1.", True),
        ({"source": _SQUARE, "claim": "result >= 0"}, "Always", True),
        ({"source": _SQUARE, "claim": "result > x"}, "It always holds.", False),
        ({"source": _SQUARE, "claim": "result >= 0"}, "It does not always hold.", False),
        ({"source": _SQUARE, "claim": "result > x", "assume": "x > 1"}, "x = 0", False),
        ({"source": _SQUARE, "claim": "result >= 0", "proof": {"domain": "bits8"}}, "x = 12", True),
        ({"source": _SQUARE, "claim": "result > 0", "assume": "x > 1 and x < 1"}, "always", None),
        ({"source": "def f(x):\n    return g(x)", "claim": "result > 0"}, "always", None),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        said = final_segments(reply)
        points = [dict(_VALUE.findall(text)) for text in said]
        if len(said) > 1 and len({str(point) for point in points}) > 1:
            return verdict(False, f"{len(said)} different answers")
        text, given = said[0], points[0]
        if len(_VALUE.findall(text)) != len(given):
            return verdict(False, "one value per parameter is needed")
        around = words(_VALUE.sub(" ", text))
        if given and len(around) <= _MOST_WORDS:
            return self._asked({name: int(value) for name, value in given.items()})
        if given or not set(around) & _ALWAYS or set(around) - _ALWAYS - _AROUND:
            return verdict(False, "neither says that it holds nor gives values for which it fails")
        return self._asked({})

    def _asked(self, point: dict[str, int]) -> Score:
        """A proof of the claim; at a point, the reply is right when the claim is refuted there."""
        ask = {"kind": "property", "source": self.settings.source, "claim": self.settings.claim}
        found = prover().prove({**ask, "assume": self.settings.assume, "point": point}, self.settings.proof)
        if point:
            found = _AT_POINT.get(found.outcome, found)
        return found.score(self.settings.proof)
