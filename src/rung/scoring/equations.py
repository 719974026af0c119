"""Equations that an answer writes down, worked out exactly: the one part of a step that can be checked without a model.

An equation is a run of numbers, + - * / (also as \u00d7, \u00f7 or an x between numbers), brackets and at least one
"=". All its sides must agree; a decimal number may be rounded to the places that it shows. Names, powers, units inside
the run and inequalities are not read. Nothing is executed: the parsed tree is walked.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from fractions import Fraction

__all__ = ["Equation", "equations_in"]

_SIGN = {"\u00d7": "*", "\u00f7": "/", "\u2212": "-", "$": ""}
_TIMES = re.compile(r"(?<=\d)\s*[xX]\s*(?=\d)")
_THOUSANDS = re.compile(r"(?<=\d),(?=\d{3}(?!\d))")
_NUMBER = re.compile(r"\d+\.\d+|\.\d+|\d+")
_NUMBERED = re.compile(r"^[ \t]*\d{1,3}[.)][ \t]+", re.MULTILINE)
_RUN = re.compile(r"[-\d \t.()+*/=]+")
_SENTENCE_END = re.compile(r"\.(?!\d)")
_PLAIN = re.compile(r"\s*-?\d*\.(\d+)\s*")
_LONGEST = 400  # characters of one equation: more is junk, and would cost time
_WORK: dict[type[ast.operator], Callable[[Fraction, Fraction], Fraction]] = {
    ast.Add: lambda left, right: left + right,
    ast.Sub: lambda left, right: left - right,
    ast.Mult: lambda left, right: left * right,
    ast.Div: lambda left, right: left / right,
}


@dataclass(frozen=True, slots=True)
class Equation:
    """One equation: its first side without spaces, the numbers on it, its last side's value, and whether it holds."""

    left: str
    operands: tuple[Fraction, ...]
    result: Fraction
    holds: bool

    @property
    def idle(self) -> bool:
        """Whether it works nothing out: no operation, or a result that is one of its own operands (7 + 0 = 7)."""
        return len(self.operands) < 2 or self.result in self.operands


def equations_in(text: str) -> list[Equation]:
    """Every equation that can be read, in order. Sides that cannot be worked out (1/0, "3 4") make none."""
    for mark, plain in _SIGN.items():
        text = text.replace(mark, plain)
    text = _THOUSANDS.sub("", _TIMES.sub("*", _NUMBERED.sub("", text)))
    found = [_equation(run) for match in _RUN.finditer(text) for run in _runs(text, match)]
    return [equation for equation in found if equation is not None]


def _runs(text: str, match: re.Match[str]) -> list[str]:
    """The sentences of a run; one that goes on from a name ("x + 1 = 3", "7 = 3y") is no arithmetic alone."""
    runs = _SENTENCE_END.split(match.group())
    if text[: match.start()][-1:].isalpha() and runs[0].lstrip()[:1] in set("+-*/"):
        runs[0] = ""
    if text[match.end() :][:1].isalpha() and not runs[-1].endswith(" "):
        runs[-1] = ""
    return [run for run in runs if "=" in run and len(run) <= _LONGEST]


def _equation(run: str) -> Equation | None:
    sides = [side.strip() for side in run.split("=")]
    sides = sides[1:] if not sides[0] and len(sides) > 2 else sides  # "total = 3 + 4 = 7"
    worked = [_worked_out(side) for side in sides]
    values = [value for value, _ in (one for one in worked if one is not None)]
    if len(values) < len(sides) or worked[0] is None:
        return None
    slack = max(_rounding(side) for side in sides)
    holds = all(abs(value - values[0]) <= slack for value in values[1:])
    return Equation("".join(sides[0].split()), worked[0][1], values[-1], holds)


def _rounding(side: str) -> Fraction:
    """Half a unit of the last place of a plain decimal number, 0 for everything else."""
    shown = _PLAIN.fullmatch(side)
    return Fraction(1, 2 * 10 ** len(shown.group(1))) if shown else Fraction(0)


def _worked_out(side: str) -> tuple[Fraction, tuple[Fraction, ...]] | None:
    """The value of a side and the numbers on it, None where it is no arithmetic."""
    try:
        numbers = {f"n{place}": Fraction(text) for place, text in enumerate(_NUMBER.findall(side))}
        names = iter(numbers)  # numbers stand for themselves by name: as floats, 0.1 + 0.2 = 0.3 would not hold
        tree = ast.parse(_NUMBER.sub(lambda match: next(names), side), mode="eval")
        return _value(tree.body, numbers), tuple(numbers.values())
    except (SyntaxError, ValueError, ZeroDivisionError, RecursionError, MemoryError):
        return None


def _value(node: ast.expr, numbers: Mapping[str, Fraction]) -> Fraction:
    if isinstance(node, ast.Name):
        return numbers[node.id]
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.USub):
        return -_value(node.operand, numbers)
    if isinstance(node, ast.BinOp) and type(node.op) in _WORK:
        return _WORK[type(node.op)](_value(node.left, numbers), _value(node.right, numbers))
    raise ValueError("no arithmetic")
