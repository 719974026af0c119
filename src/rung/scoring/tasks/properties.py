"""Does a property of a small function hold for all integers? Proved, or refuted by any counter-example the reply gives.

Difficulty sets the kind of function (linear, with abs, min or max, with a branch, with division, on 8-bit integers
that wrap). The reply is "always" or values ("x = 3"); `z3_property` judges, so that a lucky "no" earns nothing.
"""

from __future__ import annotations

import random

from rung.base.errors import DataError
from rung.scoring.proving import ProofSettings, prover
from rung.scoring.task import Generated, Question, TaskSettings

__all__ = ["Properties"]

_ASK = "If it holds for every {kind} x, answer: always. If not, answer with one x for which it fails, like: x = 3"


class PropertiesSettings(TaskSettings):
    """How hard."""


class Properties(Generated[PropertiesSettings]):
    """Claims about functions."""

    Settings = PropertiesSettings

    def draw(self, rng: random.Random) -> Question:
        """One function with one claim; drawn again while Z3 leaves it open."""
        bits = self.settings.difficulty == 5
        proof = ProofSettings(domain="bits8" if bits else "int")
        for _ in range(50):
            body, claim = self._function(rng), self._claim(rng)
            source = f"def f(x):\n    return {body}"
            ask = {"kind": "property", "source": source, "claim": claim, "assume": "True", "point": {}}
            found = prover().prove(ask, proof)
            if found.outcome in ("proved", "refuted"):
                return self._question(source, claim, found.point, proof)
        raise DataError("no decidable claim in 50 draws", place="tasks.properties")

    def _function(self, rng: random.Random) -> str:
        a, b, c = rng.randint(1, 5), rng.randint(-9, 9), rng.randint(2, 5)
        bodies = {
            1: (f"x + {a}", f"x - {a}", f"{c} * x"),
            2: (f"abs(x) + {a}", f"max(x, {b})", f"min(x, {b})", f"abs(x - {a})"),
            3: (f"x if x > {b} else {b} - x", f"{c} * x if x > {b} else x", f"abs(x) if x < {b} else x + {a}"),
            4: (f"x // {c}", f"x % {c}", f"x // {c} + x % {c}", f"x - {c} * (x // {c})"),
            5: (f"x + {a}", f"{c} * x", f"-x + {b}", f"abs(x) - {a}"),
        }
        return rng.choice(bodies[self.settings.difficulty])

    def _claim(self, rng: random.Random) -> str:
        bound = rng.randint(-9, 9)
        return rng.choice(("f(x) >= x", "f(x) > x", "f(x) <= x", f"f(x) >= {bound}", f"f(x) <= {bound}")).replace(
            "f(x)", "result"
        )

    def _question(self, source: str, claim: str, point: object, proof: ProofSettings) -> Question:
        shown, kind = claim.replace("result", "f(x)"), "integer"
        if proof.domain == "bits8":
            kind = "8-bit signed integer (results wrap around)"
        failing = dict(point)  # type: ignore[call-overload]
        answer = f"x = {failing['x']}" if failing else "always"
        wrong = ("always", "no") if failing else ("no", "x = 3", "it does not always hold")
        check = {"z3_property": {"source": source, "claim": claim, "proof": {"domain": proof.domain}}}
        body = source.partition("return ")[2]
        return Question(
            f"f(x) = {body} (as in Python). Claim: {shown}. {_ASK.format(kind=kind)}",
            answer,
            check,
            f"{source} {claim}",
            "exact",
            wrong,
        )
