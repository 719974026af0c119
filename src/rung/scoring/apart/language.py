"""A small part of Python as terms of Z3: integers, truth values, if, for over a constant range, and return.

Nothing is executed: the text is parsed, each node is either known here or refused by name. Division and remainder are
Python's (rounded down), on machine integers too; those wrap around at their width, as the task then says. A division
by zero and a path without a return are no values: they become obligations that a proof has to meet.
"""

from __future__ import annotations

import ast
import operator
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, NoReturn

__all__ = ["Outside", "Symbols", "parse_expression", "parse_function"]

_MOST_CHARACTERS = 4000
_MOST_NODES = 400
_MOST_STEPS = 64
_LARGEST_POWER = 6
_LARGEST_CONSTANT = 1 << 128
_Sign = Callable[[Any, Any], Any]
_ORDERS: dict[type, _Sign] = {ast.Lt: operator.lt, ast.LtE: operator.le, ast.Gt: operator.gt, ast.GtE: operator.ge}
_PLAIN: dict[type, _Sign] = {ast.Add: operator.add, ast.Sub: operator.sub, ast.Mult: operator.mul}
_BITS: dict[type, _Sign] = {ast.BitAnd: operator.and_, ast.BitOr: operator.or_, ast.BitXor: operator.xor}


class Outside(Exception):
    """Text that is not in the language; the message says which part."""


def parse_expression(text: str) -> ast.expr:
    """One expression.

    Raises:
        Outside: no expression, or too long a one.
    """
    return ast.parse(_fitting(text.replace("^", "**").strip(), "eval"), mode="eval").body


def parse_function(text: str, name: str = "") -> ast.FunctionDef:
    """The only function of a text, called `name` where one is given, without defaults, decorators or annotations.

    Raises:
        Outside: anything else stands there too.
    """
    body = ast.parse(_fitting(text, "exec")).body
    if len(body) != 1 or not isinstance(body[0], ast.FunctionDef):
        raise Outside("there must be one function and nothing else")
    function = body[0]
    arguments = function.args
    extra = [arguments.posonlyargs, arguments.kwonlyargs, arguments.defaults, arguments.vararg, arguments.kwarg]
    if any(extra) or function.decorator_list:
        raise Outside("a plain list of parameters is needed, without defaults or decorators")
    if name and function.name != name:
        raise Outside(f"the function must be called {name}")
    return function


def _fitting(text: str, mode: str) -> str:
    if len(text) > _MOST_CHARACTERS:
        raise Outside(f"longer than {_MOST_CHARACTERS} characters")
    try:
        tree = ast.parse(text, mode=mode)
    except (SyntaxError, ValueError, MemoryError, RecursionError) as error:
        raise Outside(f"does not parse: {error}") from error
    if sum(1 for _ in ast.walk(tree)) > _MOST_NODES:
        raise Outside(f"more than {_MOST_NODES} parts")
    return text


@dataclass
class _Path:
    """Where execution stands: the condition to be here, and the names' terms."""

    here: Any
    names: dict[str, Any]


@dataclass
class Symbols:
    """Terms over one kind of number: `domain` is int, real, or bits8 to bits64."""

    z3: Any
    domain: str
    obligations: list[Any] = field(default_factory=list)
    _returned: list[tuple[Any, Any]] = field(default_factory=list)

    @property
    def width(self) -> int:
        """Bits of a machine integer; 0 for numbers without bound."""
        return int(self.domain[4:]) if self.domain.startswith("bits") else 0

    def variable(self, name: str) -> Any:
        """A free number."""
        if self.width:
            return self.z3.BitVec(name, self.width)
        return self.z3.Real(name) if self.domain == "real" else self.z3.Int(name)

    def constant(self, value: int) -> Any:
        """A number; on machine integers its bits."""
        if abs(value) > _LARGEST_CONSTANT:
            raise Outside("a constant is too large")
        if self.width:
            return self.z3.BitVecVal(value, self.width)
        return self.z3.RealVal(value) if self.domain == "real" else self.z3.IntVal(value)

    def expression(self, node: ast.expr, names: Mapping[str, Any], here: Any = None) -> Any:
        """The term of `node` where the condition `here` holds."""
        path = _Path(self.z3.BoolVal(True) if here is None else here, dict(names))
        return self._term(node, path)

    def function(self, tree: ast.FunctionDef, arguments: Sequence[Any]) -> Any:
        """The value that `tree` returns for the arguments; that it returns at all joins the obligations."""
        parameters = [parameter.arg for parameter in tree.args.args]
        if len(set(parameters)) != len(arguments):
            raise Outside(f"{len(arguments)} parameters are needed")
        self._returned = []
        end = self._block(tree.body, _Path(self.z3.BoolVal(True), dict(zip(parameters, arguments, strict=True))))
        self.obligations.append(self.z3.Not(end.here))
        if not self._returned:
            raise Outside("nothing is returned")
        value = self._returned[-1][1]
        for here, earlier in reversed(self._returned[:-1]):
            value = self._choice(here, earlier, value)
        return value

    def _block(self, body: Sequence[ast.stmt], path: _Path) -> _Path:
        for statement in body:
            method = getattr(self, f"_on_{type(statement).__name__.lower()}", None)
            if method is None:
                _refuse(statement)
            path = method(statement, path)
        return path

    def _on_return(self, node: ast.Return, path: _Path) -> _Path:
        if node.value is None:
            raise Outside("a return needs a value")
        self._returned.append((path.here, self._term(node.value, path)))
        return _Path(self.z3.BoolVal(False), path.names)

    def _on_assign(self, node: ast.Assign, path: _Path) -> _Path:
        if len(node.targets) != 1 or not isinstance(node.targets[0], ast.Name):
            raise Outside("only one name is assigned at a time")
        return _Path(path.here, {**path.names, node.targets[0].id: self._term(node.value, path)})

    def _on_augassign(self, node: ast.AugAssign, path: _Path) -> _Path:
        if not isinstance(node.target, ast.Name):
            raise Outside("only names are assigned")
        value = ast.BinOp(ast.Name(node.target.id, ast.Load()), node.op, node.value)
        return _Path(path.here, {**path.names, node.target.id: self._term(value, path)})

    def _on_expr(self, node: ast.Expr, path: _Path) -> _Path:
        if not (isinstance(node.value, ast.Constant) and isinstance(node.value.value, str)):
            raise Outside("an expression that does nothing")
        return path  # a docstring

    def _on_pass(self, node: ast.Pass, path: _Path) -> _Path:
        return path

    def _on_if(self, node: ast.If, path: _Path) -> _Path:
        test = self._truth(self._term(node.test, path))
        then = self._block(node.body, _Path(self.z3.And(path.here, test), dict(path.names)))
        other = self._block(node.orelse, _Path(self.z3.And(path.here, self.z3.Not(test)), dict(path.names)))
        joined = {}
        for name in then.names.keys() | other.names.keys():
            one, two = then.names.get(name), other.names.get(name)
            if self._gone(then) or self._gone(other):
                kept = two if self._gone(then) else one
                joined.update({name: kept} if kept is not None else {})
            elif one is not None and two is not None:
                joined[name] = one if one is two else self._choice(test, one, two)
        return _Path(self.z3.Or(then.here, other.here), joined)

    def _on_for(self, node: ast.For, path: _Path) -> _Path:
        steps = _steps(node)
        assert isinstance(node.target, ast.Name)
        for step in steps:
            path = self._block(node.body, _Path(path.here, {**path.names, node.target.id: self.constant(step)}))
        return path

    def _gone(self, path: _Path) -> bool:
        return bool(self.z3.is_false(path.here))

    def _term(self, node: ast.expr, path: _Path) -> Any:
        method = getattr(self, f"_of_{type(node).__name__.lower()}", None)
        if method is None:
            _refuse(node)
        return method(node, path)

    def _of_constant(self, node: ast.Constant, path: _Path) -> Any:
        if isinstance(node.value, bool):
            return self.z3.BoolVal(node.value)
        if isinstance(node.value, int):
            return self.constant(node.value)
        raise Outside(f"the constant {node.value!r:.20}")

    def _of_name(self, node: ast.Name, path: _Path) -> Any:
        if node.id not in path.names:
            raise Outside(f"the name {node.id}, which has no value here")
        return path.names[node.id]

    def _of_boolop(self, node: ast.BoolOp, path: _Path) -> Any:
        # Later operands are only reached when the earlier ones let them be: a guard before a division counts.
        terms, here, is_and = [], path.here, isinstance(node.op, ast.And)
        for value in node.values:
            term = self._truth(self._term(value, _Path(here, path.names)))
            terms.append(term)
            here = self.z3.And(here, term if is_and else self.z3.Not(term))
        return (self.z3.And if is_and else self.z3.Or)(*terms)

    def _of_unaryop(self, node: ast.UnaryOp, path: _Path) -> Any:
        term = self._term(node.operand, path)
        if isinstance(node.op, ast.Not):
            return self.z3.Not(self._truth(term))
        if isinstance(node.op, ast.USub):
            return -self._number(term)
        if isinstance(node.op, ast.Invert) and self.width:
            return ~self._number(term)
        return self._number(term) if isinstance(node.op, ast.UAdd) else _refuse(node.op)

    def _of_compare(self, node: ast.Compare, path: _Path) -> Any:
        terms = [self._term(part, path) for part in (node.left, *node.comparators)]
        pairs = zip(node.ops, terms[:-1], terms[1:], strict=True)
        return self.z3.And(*(self._compared(operator, one, two) for operator, one, two in pairs))

    def _compared(self, sign: ast.cmpop, one: Any, two: Any) -> Any:
        both_truths = self.z3.is_bool(one) and self.z3.is_bool(two)
        if isinstance(sign, (ast.Eq, ast.NotEq)):
            same = one == two if both_truths else self._number(one) == self._number(two)
            return same if isinstance(sign, ast.Eq) else self.z3.Not(same)
        if type(sign) not in _ORDERS:
            _refuse(sign)
        return _ORDERS[type(sign)](self._number(one), self._number(two))

    def _of_ifexp(self, node: ast.IfExp, path: _Path) -> Any:
        test = self._truth(self._term(node.test, path))
        one = self._term(node.body, _Path(self.z3.And(path.here, test), path.names))
        two = self._term(node.orelse, _Path(self.z3.And(path.here, self.z3.Not(test)), path.names))
        return self._choice(test, one, two)

    def _of_call(self, node: ast.Call, path: _Path) -> Any:
        name = node.func.id if isinstance(node.func, ast.Name) else ""
        terms = [] if node.keywords else [self._number(self._term(part, path)) for part in node.args]
        if name == "abs" and len(terms) == 1:
            return self.z3.If(terms[0] < 0, -terms[0], terms[0])
        if name in ("min", "max") and len(terms) >= 2:
            best = terms[0]
            for term in terms[1:]:
                best = self.z3.If(term < best if name == "min" else term > best, term, best)
            return best
        raise Outside(f"a call of {ast.unparse(node.func)[:30]}; abs, min and max are known")

    def _of_binop(self, node: ast.BinOp, path: _Path) -> Any:
        one, two = self._number(self._term(node.left, path)), self._number(self._term(node.right, path))
        if isinstance(node.op, ast.Pow):
            return self._power(one, node.right)
        if isinstance(node.op, (ast.FloorDiv, ast.Mod, ast.Div)):
            self.obligations.append(self.z3.Implies(path.here, two != 0))
            return self._divided(node.op, one, two)
        known = {**_PLAIN, **_BITS} if self.width else _PLAIN
        if type(node.op) not in known:
            _refuse(node.op)
        return known[type(node.op)](one, two)

    def _power(self, base: Any, exponent: ast.expr) -> Any:
        count = exponent.value if isinstance(exponent, ast.Constant) else None
        if type(count) is not int or not 0 <= count <= _LARGEST_POWER:
            raise Outside(f"a power that is not a constant up to {_LARGEST_POWER}")
        power = self.constant(1)
        for _ in range(count):
            power = power * base
        return power

    def _divided(self, sign: ast.operator, one: Any, two: Any) -> Any:
        if isinstance(sign, ast.Div):
            return one / two if self.domain == "real" else _refuse(sign)
        if self.domain == "real":
            _refuse(sign)
        if self.width:  # Z3's machine division cuts towards zero, Python's rounds down
            cut, rest = one / two, self.z3.SRem(one, two)
            down = self.z3.If(self.z3.And(rest != 0, (rest < 0) != (two < 0)), cut - 1, cut)
        else:  # Z3's whole division leaves a rest that is never negative
            down = self.z3.If(two > 0, one / two, (-one) / (-two))
        return down if isinstance(sign, ast.FloorDiv) else one - two * down

    def _truth(self, term: Any) -> Any:
        return term if self.z3.is_bool(term) else term != 0

    def _number(self, term: Any) -> Any:
        return self.z3.If(term, self.constant(1), self.constant(0)) if self.z3.is_bool(term) else term

    def _choice(self, test: Any, one: Any, two: Any) -> Any:
        if self.z3.is_bool(one) != self.z3.is_bool(two):
            one, two = self._number(one), self._number(two)
        return self.z3.If(test, one, two)


def _steps(node: ast.For) -> range:
    call = node.iter
    is_range = isinstance(call, ast.Call) and isinstance(call.func, ast.Name) and call.func.id == "range"
    if not is_range or node.orelse or not isinstance(node.target, ast.Name):
        raise Outside("a loop that is not over a range")
    assert isinstance(call, ast.Call)
    bounds = [part.value if isinstance(part, ast.Constant) else None for part in call.args]
    whole = [bound for bound in bounds if type(bound) is int]
    if call.keywords or len(whole) != len(bounds) or not 1 <= len(whole) <= 3 or 0 in whole[2:]:
        raise Outside("a range whose bounds are not constants")
    steps = range(*whole)
    if len(steps) > _MOST_STEPS:
        raise Outside(f"a loop of more than {_MOST_STEPS} steps")
    return steps


def _refuse(node: ast.AST) -> NoReturn:
    raise Outside(f"{type(node).__name__} is not in the language")
