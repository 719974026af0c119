"""Proofs about the task's own statement, by Z3 (runs apart only): proved, refuted with a counter-example, or unknown.

A statement is proved when its negation has no model. Before a proof counts, the assumptions alone must have one:
from a contradiction everything follows. Effort is counted in Z3's own units (`rlimit`), so that a verdict does not
depend on the machine, and every query goes through text into a fresh context, so that none depends on another.
"""

from __future__ import annotations

import importlib
from typing import Any

from rung.scoring.apart.language import Outside, Symbols, parse_expression, parse_function

__all__ = ["answer"]


def answer(ask: dict[str, Any]) -> dict[str, Any]:
    """`outcome`: proved, refuted, unknown, refused (the model's text), broken (the task's) or vacuous (its premises).

    `reason` says why, `point` holds a counter-example's values, `effort` the units spent.
    """
    z3 = importlib.import_module("z3")
    symbols = Symbols(z3, ask["domain"])
    kinds = {"identity": _identity, "property": _property, "program": _program}
    try:
        premises, goal, variables = kinds[ask["kind"]](symbols, ask)
    except _Refused as refused:
        return _found("refused", str(refused))
    except Outside as outside:
        return _found("broken", f"the statement: {outside}")
    return _decide(z3, premises, goal, variables, ask["effort"])


class _Refused(Exception):
    """The model's text is not in the language."""


def _identity(symbols: Symbols, ask: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """`left` equals the given `right` wherever `assume` holds and `left` has a value."""
    names = sorted(set(ask["variables"]))
    terms = {name: symbols.variable(name) for name in names}
    premises = [symbols.expression(parse_expression(ask["assume"]), terms)]
    left = symbols.expression(parse_expression(ask["left"]), terms)
    premises += symbols.obligations
    symbols.obligations = []
    try:
        right = symbols.expression(parse_expression(ask["right"]), terms)
    except Outside as outside:
        raise _Refused(str(outside)) from outside
    z3 = symbols.z3
    if z3.is_bool(left) != z3.is_bool(right):
        raise _Refused("a truth value where a number is needed, or the other way round")
    return premises, z3.And(left == right, *symbols.obligations), names


def _property(symbols: Symbols, ask: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """`claim` holds of the function's `result` wherever `assume` does; with `point`, for those values alone."""
    function = parse_function(ask["source"])
    names = [parameter.arg for parameter in function.args.args]
    terms = {name: symbols.variable(name) for name in names}
    premises = [symbols.expression(parse_expression(ask["assume"]), terms)]
    given: dict[str, int] = ask["point"]
    if given and sorted(given) != sorted(names):
        raise _Refused(f"values for {', '.join(names)} are needed")
    premises += [terms[name] == symbols.constant(value) for name, value in given.items()]
    goal = _holds(symbols, function, terms, ask["claim"])
    return premises, goal, names


def _program(symbols: Symbols, ask: dict[str, Any]) -> tuple[Any, Any, list[str]]:
    """The given function, called as the task says, meets `ensures` wherever `requires` holds."""
    names = list(ask["parameters"])
    terms = {name: symbols.variable(name) for name in names}
    premises = [symbols.expression(parse_expression(ask["requires"]), terms)]
    try:
        function = parse_function(ask["source"], ask["name"])
        if [parameter.arg for parameter in function.args.args] != names:
            raise Outside(f"the parameters must be {', '.join(names)}")
        result = symbols.function(function, [terms[name] for name in names])
    except Outside as outside:
        raise _Refused(str(outside)) from outside
    goal = symbols.expression(parse_expression(ask["ensures"]), {**terms, "result": result})
    return premises, symbols.z3.And(goal, *symbols.obligations), names


def _holds(symbols: Symbols, function: Any, terms: dict[str, Any], claim: str) -> Any:
    result = symbols.function(function, [terms[parameter.arg] for parameter in function.args.args])
    goal = symbols.expression(parse_expression(claim), {**terms, "result": result})
    return symbols.z3.And(goal, *symbols.obligations)


def _decide(z3: Any, premises: list[Any], goal: Any, variables: list[str], effort: int) -> dict[str, Any]:
    possible, _, spent = _solve(z3, premises, [], effort)
    if possible == "unsat":
        return _found("vacuous", "nothing meets the assumptions", effort=spent)
    verdict, point, more = _solve(z3, [*premises, z3.Not(goal)], variables, effort)
    spent += more
    if verdict == "unsat" and possible == "sat":
        return _found("proved", "proved for all values", effort=spent)
    if verdict == "sat":
        shown = ", ".join(f"{name} = {value}" for name, value in point.items())
        return _found("refuted", f"fails for {shown}" if shown else "fails", point, spent)
    return _found("unknown", f"undecided after {spent} units", effort=spent)


def _solve(z3: Any, terms: list[Any], variables: list[str], effort: int) -> tuple[str, dict[str, str], int]:
    writer = z3.Solver()
    writer.add(*terms)
    context = z3.Context()
    solver = z3.Solver(ctx=context)
    solver.set("rlimit", effort)
    solver.set("random_seed", 0)
    solver.from_string(writer.to_smt2())
    verdict = str(solver.check())
    point: dict[str, str] = {}
    if verdict == "sat" and variables:
        model = solver.model()
        values = {str(symbol): model[symbol] for symbol in model.decls()}
        point = {name: _shown(values[name]) if name in values else "0" for name in variables}
    statistics = solver.statistics()
    spent = statistics.get_key_value("rlimit count") if "rlimit count" in statistics.keys() else 0  # noqa: SIM118
    return verdict, point, int(spent)


def _shown(value: Any) -> str:
    return str(value.as_signed_long()) if hasattr(value, "as_signed_long") else str(value)


def _found(outcome: str, reason: str, point: dict[str, str] | None = None, effort: int = 0) -> dict[str, Any]:
    return {"outcome": outcome, "reason": reason, "point": point or {}, "effort": effort}
