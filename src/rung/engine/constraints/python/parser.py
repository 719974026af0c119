"""Where a program stands between two tokens: the set of stacks of what may still follow.

A stack holds symbols that are all still owed, so every place can be completed, and the sum of what they cost is a
bound on the bytes that this takes. Stacks share their lower parts and places are interned: after a while a step is one
look into a dictionary.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from rung.engine.constraints.python.grammar import IDS, LINE, TERMINALS, Grammar, grammar

__all__ = ["ENDLESS", "MOST_COLUMNS", "Parser", "Place"]

ENDLESS = 10**9
MOST_COLUMNS = 100
# CPython refuses more than 200 open brackets and 100 indentations, and its own stack is not endless
_MOST_BRACKETS = 40
_MOST_LEVELS = 30
_MOST_PLACES = 30_000
_NUM_TERMINALS = len(TERMINALS)
_NEWLINE, _INDENT, _DEDENT, _END = (IDS[name] for name in ("NEWLINE", "INDENT", "DEDENT", "END"))
_OWED_LINE = grammar().names["<BOL>"]
_OPENING = frozenset(IDS[text] for text in "([{")
_CLOSING = frozenset(IDS[text] for text in ")]}")


class _Node:
    """One symbol of a stack and everything below it."""

    __slots__ = ("accepts", "below", "column", "cost", "depth", "level", "line_cost", "symbol")

    def __init__(self, symbol: int, below: _Node | None, column: int, cost: int, accepts: int) -> None:
        self.symbol, self.below, self.column, self.accepts = symbol, below, column, accepts
        self.cost: int = cost + (below.cost if below else 0)
        self.line_cost: int = below.cost if below and symbol == _OWED_LINE else self.cost
        self.depth: int = (symbol in _CLOSING) - (symbol in _OPENING) + (below.depth if below else 0)
        self.level: int = (symbol == _DEDENT) + (below.level if below else 0)


class Place:
    """A set of stacks that agree on everything read so far.

    Attributes: `accepts` (terminals that may follow, one bit each), `cost` (bytes that complete it), `line_cost` (the
    same at the start of a line), `column` (spaces before the lines of the present block), `depth` (open brackets),
    `level` (open blocks), `needs` (what other modules remember per place).
    """

    __slots__ = ("accepts", "column", "cost", "depth", "level", "line_cost", "needs", "nodes", "steps")

    def __init__(self, nodes: frozenset[_Node]) -> None:
        first = next(iter(nodes))
        self.nodes, self.column, self.depth, self.level = nodes, first.column, first.depth, first.level
        self.cost = min(node.cost for node in nodes)
        self.line_cost = min(node.line_cost for node in nodes)
        self.accepts = 0
        for node in nodes:
            self.accepts |= node.accepts
        self.steps: dict[int, Place | None] = {}
        self.needs: dict[int, int] = {}

    def takes(self, terminal: int) -> bool:
        """Whether a terminal of the grammar may follow."""
        return bool(self.accepts >> terminal & 1)


class Parser:
    """Makes places and steps between them.

    Args:
        unit: spaces by which a block is deeper than the line that opens it.
    """

    def __init__(self, unit: int) -> None:
        self.unit = unit
        self._grammar: Grammar = grammar()
        self._first = {symbol: sum(1 << terminal for terminal in tails) for symbol, tails in _tails(self._grammar)}
        self._nodes: dict[tuple[int, _Node | None, int], _Node] = {}
        self._places: dict[frozenset[_Node], Place] = {}

    def start(self) -> Place:
        """Before the first line."""
        return self._place({self._push((self._grammar.names["<file>"],), None, 0)})

    def step(self, place: Place, terminal: int) -> Place | None:
        """The place after a terminal or after `LINE` + n; None if it may not follow."""
        if terminal in place.steps:
            return place.steps[terminal]
        if terminal >= LINE:
            reached = self.line(place, terminal - LINE, place.column + self.unit)
        elif place.depth and terminal == _NEWLINE:
            reached = place
        else:
            reached = self._shift(place, terminal, place.column)
        place.steps[terminal] = reached
        return reached

    def line(self, place: Place, column: int, deeper: int) -> Place | None:
        """The place where a line starts after `column` spaces, if `deeper` are those of a new block."""
        if place.depth:
            return place
        if place.takes(_INDENT):
            return self._shift(place, _INDENT, column) if column == deeper > place.column else None
        reached: Place | None = place
        while reached is not None and column < reached.column:
            reached = self._shift(reached, _DEDENT, 0)
        return reached if reached is not None and reached.column == column else None

    def columns(self, place: Place) -> Iterator[tuple[int, Place]]:
        """Where the next line may start, with the place after it; the deepest first."""
        if place.takes(_INDENT):
            inner = self.step(place, LINE + place.column + self.unit)
            if inner is not None:
                yield inner.column, inner
            return
        reached: Place | None = place
        while reached is not None:
            yield reached.column, reached
            reached = self.step(reached, _DEDENT) if reached.level else None

    def ends(self, place: Place, in_line: bool) -> bool:
        """Whether the program may end here; `in_line`: after tokens of a line that is not ended."""
        reached = self.step(place, _NEWLINE) if in_line else place
        while reached is not None and not reached.takes(_END):
            reached = self.step(reached, _DEDENT)
        return reached is not None

    def tidy(self) -> bool:
        """Forget what was made if it is too much, and say so; places that are in use stay good."""
        if len(self._places) <= _MOST_PLACES:
            return False
        self._nodes.clear()
        self._places.clear()
        return True

    def _shift(self, place: Place, terminal: int, column: int) -> Place | None:
        if not place.takes(terminal) or (terminal in _OPENING and place.depth >= _MOST_BRACKETS):
            return None
        nodes: set[_Node] = set()
        for node in place.nodes:
            self._follow(node, terminal, column, nodes)
        reached = self._place(nodes)
        deepest = reached.level >= _MOST_LEVELS or reached.column + self.unit > MOST_COLUMNS
        return None if terminal == _NEWLINE and deepest and reached.takes(_INDENT) else reached

    def _follow(self, node: _Node | None, terminal: int, column: int, found: set[_Node]) -> None:
        """Add the stacks after a terminal: it may belong to the top symbol, or to one below empty ones."""
        while node is not None:
            if node.symbol < _NUM_TERMINALS:
                if node.symbol == terminal and node.below is not None:
                    found.add(node.below)
                return
            for tail in self._grammar.tails[node.symbol].get(terminal, ()):
                pushed = self._push(tail, node.below, column if terminal == _INDENT else node.column)
                found.add(pushed)
            if node.symbol not in self._grammar.nullable:
                return
            node = node.below

    def _push(self, symbols: tuple[int, ...], below: _Node | None, column: int) -> _Node:
        node = below
        for symbol in reversed(symbols):
            node = self._node(symbol, node, column)
        assert node is not None
        return node

    def _node(self, symbol: int, below: _Node | None, column: int) -> _Node:
        key = (symbol, below, column)
        node = self._nodes.get(key)
        if node is None:
            cost = self._grammar.costs(column, self.unit)[symbol]
            accepts = self._first[symbol] if symbol >= _NUM_TERMINALS else 1 << symbol
            if symbol in self._grammar.nullable and below is not None:
                accepts |= below.accepts
            node = self._nodes[key] = _Node(symbol, below, column, cost, accepts)
        return node

    def _place(self, nodes: Iterable[_Node]) -> Place:
        key = frozenset(nodes)
        place = self._places.get(key)
        if place is None:
            place = self._places[key] = Place(key)
        return place


def _tails(made: Grammar) -> Iterator[tuple[int, Iterable[int]]]:
    return ((symbol, tails.keys()) for symbol, tails in made.tails.items())
