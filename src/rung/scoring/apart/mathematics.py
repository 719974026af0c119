"""Whether two mathematical answers are the same, by math-verify over sympy (runs apart only).

The gold answer goes first, as math-verify compares asymmetrically. Its own alarms are off: they fail outside a main
thread and turn every score into 0 (verl issue 5635); the process's limit stands in for them. Its plain-number parser
hands text to sympy's evaluator, so only LaTeX, read by a grammar, is let in.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

__all__ = ["answer"]


def answer(ask: dict[str, Any]) -> dict[str, Any]:
    """`gold` and `given` are LaTeX, `decimals` the places that floats are rounded to.

    The result says whether the gold answer was readable and equal to itself (`gold`), what was read of the given one
    (`read`, empty: nothing) and whether they are the same.
    """
    grader = importlib.import_module("math_verify.grader")
    gold, given, decimals = _parse(ask["gold"]), _parse(ask["given"]), ask["decimals"]

    def same(first: Any, second: Any) -> bool:
        """First against second, gold first."""
        return bool(grader.verify(list(first), list(second), float_rounding=decimals, timeout_seconds=None))

    if not gold or not same(gold, gold):
        return {"gold": False, "read": "", "same": False}
    return {"gold": True, "read": str(given[0])[:80] if given else "", "same": bool(given) and same(gold, given)}


@lru_cache(maxsize=512)
def _parse(latex: str) -> tuple[Any, ...]:
    parser = importlib.import_module("math_verify.parser")
    reading = importlib.import_module("latex2sympy2_extended.latex2sympy2").NormalizationConfig(
        basic_latex=True, units=True, malformed_operators=False, nits=False, boxed="all", equations=False
    )
    target = parser.LatexExtractionConfig(boxed_match_priority=0, normalization_config=reading)
    return tuple(parser.parse(f"${latex}$", [target], fallback_mode="no_fallback", parsing_timeout=None))
