"""An expression that must equal the task's for all values: expanded, factored, simplified, rewritten. Proved by Z3.

Only the right side is the reply's; the left side, the assumptions and the form are the task's, so that nobody earns by
proving something easier. Of "a = b" counts what follows the last "=". `form` keeps the left side itself from being
the answer: expanded allows no product or power of a sum, collected moreover no two terms of one kind, factored is a
product or power at the top.

Refuses text that is not an expression over the task's variables. Abstains when Z3 cannot decide (by default).
"""

from __future__ import annotations

import ast
import re
from typing import Literal

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.final_segments import final_segments
from rung.scoring.proving import ProofSettings, prover
from rung.scoring.verifier import Verifier, verdict

__all__ = ["Z3Identity"]

_MARKS = "\"'`*_$ \t\n"
_TIMES = re.compile(r"(?<=[\d)])\s*(?=[a-zA-Z(])|(?<=[a-zA-Z])\s*(?=\()")
_SUM = (ast.Add, ast.Sub)
_FUNCTIONS = frozenset({"abs", "min", "max"})


class Z3IdentitySettings(Settings):
    """The task's side."""

    left: str = Field(min_length=1, max_length=500, description="the expression that the reply must equal")
    assume: str = Field(default="True", description="what may be taken for granted about the variables")
    form: Literal["any", "expanded", "collected", "factored"] = Field(
        default="any", description="the form that is asked for"
    )
    proof: ProofSettings = Field(default=ProofSettings(), description="numbers, effort, and what outcomes earn")


class Z3Identity(Verifier[Z3IdentitySettings]):
    """Whether the reply's expression equals the task's for all values."""

    Settings = Z3IdentitySettings
    INSTRUCTION = "Rewrite the expression."
    EXAMPLES = (
        ({"left": "(x+3)*(x-2)", "form": "expanded"}, "(x+3)*(x-2)", False),
        ({"left": "(x+3)*(x-2)", "form": "expanded"}, "(x+3)(x-2) = x^2 + x - 6", True),
        ({"left": "(x+3)*(x-2)", "form": "expanded"}, "**x**2 + x + 6**", False),
        ({"left": "x**2 - 9", "form": "factored"}, "Answer: (x - 3)(x + 3)", True),
        ({"left": "x**2 - 9", "form": "factored"}, "x**2 - 9", False),
        ({"left": "abs(x)", "assume": "x < 0"}, "-x", True),
        ({"left": "abs(x)"}, "-x", False),
        ({"left": "(x+1) + (x+2)", "form": "collected"}, "x + 1 + x + 2", False),
        ({"left": "x + y"}, "y + x == y + x", False),
        ({"left": "x + y"}, "__import__('os').getpid()", False),
        ({"left": "(x*x*x + y*y*y + z*z*z == 42)", "proof": {"effort": 20000}}, "False", None),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        said = list(dict.fromkeys(map(_expression, final_segments(reply))))
        if len(said) != 1 or not said[0]:
            return verdict(False, f"{len(said)} different answers" if len(said) > 1 else "no single expression")
        given = said[0]
        if problem := _unfit(given, self.settings.form):
            return verdict(False, problem)
        names = {node.id for node in ast.walk(ast.parse(self.settings.left, mode="eval")) if isinstance(node, ast.Name)}
        ask = {"kind": "identity", "left": self.settings.left, "right": given, "assume": self.settings.assume}
        found = prover().prove({**ask, "variables": sorted(names - _FUNCTIONS)}, self.settings.proof)
        return found.score(self.settings.proof)


def _expression(text: str) -> str:
    """The right side of a one-line answer, with products written out and ^ as a power; empty when there is none."""
    plain = text.strip(_MARKS).rstrip(".").strip(_MARKS)
    if "\n" in plain or len(plain) > 500:
        return ""
    side = re.split(r"(?<![=<>!])=(?!=)", plain)[-1].strip().replace("^", "**")
    return side if re.search(r"\b(?:abs|min|max)\b", side) else _TIMES.sub("*", side)


def _unfit(text: str, form: str) -> str:
    """Why the text is not of the form asked for; empty when it is."""
    try:
        tree = ast.parse(text, mode="eval").body
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        return f"no expression: {type(error).__name__}"
    products = [n for n in ast.walk(tree) if isinstance(n, ast.BinOp) and isinstance(n.op, (ast.Mult, ast.Pow))]
    open_sums = any(_is_sum(side) for node in products for side in (node.left, node.right))
    if form in ("expanded", "collected") and open_sums:
        return "not expanded"
    if form == "collected" and len(kinds := [_kind(term) for term in _terms(tree)]) > len(set(kinds)):
        return "terms of one kind are left"
    if form == "factored" and not (products and tree in products):
        return "not factored"
    return ""


def _is_sum(node: ast.expr) -> bool:
    return isinstance(node, ast.BinOp) and isinstance(node.op, _SUM)


def _terms(tree: ast.expr) -> list[ast.expr]:
    """What is added or subtracted at the top, signs left aside."""
    if isinstance(tree, ast.UnaryOp):
        return _terms(tree.operand)
    if isinstance(tree, ast.BinOp) and isinstance(tree.op, _SUM):
        return [*_terms(tree.left), *_terms(tree.right)]
    return [tree]


def _kind(term: ast.expr) -> tuple[str, ...]:
    """A term's variables, each as often as it is multiplied: the same for 3*x*y and y*x."""
    if isinstance(term, ast.BinOp) and isinstance(term.op, ast.Pow) and isinstance(term.right, ast.Constant):
        times = term.right.value if type(term.right.value) is int and 0 <= term.right.value <= 20 else 1
        return tuple(sorted(_kind(term.left) * times))
    if isinstance(term, ast.BinOp):
        return tuple(sorted(_kind(term.left) + _kind(term.right)))
    if isinstance(term, ast.UnaryOp):
        return _kind(term.operand)
    return (term.id,) if isinstance(term, ast.Name) else ()
