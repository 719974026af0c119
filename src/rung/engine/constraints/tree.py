"""The parse tree of a text under rules: Earley's method (1970) once more, this time remembering how it came about.

`places.py` forgets what led to a place, because masks need no history and equal places can then be shared. Here every
item of the chart keeps the first way it was reached, which is one of the text's trees; an ambiguous grammar has others.
Repetitions are read from the left, where a chart grows with the text and not with its square.
"""

from __future__ import annotations

import itertools
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass

from rung.base.errors import DataError
from rung.engine.constraints.text import ROOT, Rules, Symbol

__all__ = ["Node", "parse"]

_Sequences = list[tuple[Symbol, ...]]
_Item = tuple[int, int, int]


@dataclass(frozen=True, slots=True)
class Node:
    """A rule and the characters of the text that it stands for, from `start` to `stop`; rules that only a reader of the
    grammar made (groups, repetitions) are left out, their children are their callers'."""

    rule: str
    start: int
    stop: int
    children: tuple[Node, ...] = ()


@dataclass(frozen=True, slots=True)
class _Child:
    """A rule between two places of the data; without an item it is empty."""

    name: str
    start: int
    stop: int
    item: _Item | None = None


@dataclass(frozen=True, slots=True)
class _Step:
    """How an item was reached: from the one before it, at its place, over a child (None: over a byte)."""

    item: _Item
    place: int
    child: _Child | None


def parse(rules: Rules, text: str, start: int = 0) -> Node:
    """The tree of a text, whose places are counted from `start`.

    Raises:
        DataError: it is no text of the rules; with line and column of the last character that could be read.
    """
    chart = _Chart(rules, text.encode())
    top = chart.read()
    if top is None:
        before = text.encode()[: chart.furthest].decode(errors="ignore")
        line, column = before.count("\n") + 1, len(before) - before.rfind("\n")
        raise DataError("the text does not fit the grammar", place=f"line {line}, column {column}")
    return _built(chart.walk(top), rules.shown, text, start)


class _Chart:
    """All items, by the place they end at, each with the first way it was reached."""

    def __init__(self, rules: Rules, data: bytes) -> None:
        self._data, self._rules = data, list[tuple[str, tuple[Symbol, ...]]]()
        self._of_name: dict[str, list[int]] = {}
        for name in rules.by_name:
            own = _opened(rules.by_name, name)
            sequences = own if name in rules.shown else _leftward(name, own)
            self._of_name[name] = list(range(len(self._rules), len(self._rules) + len(sequences)))
            self._rules += [(name, symbols) for symbols in sequences]
        self._empty = _empty(rules)
        self._steps: list[dict[_Item, _Step | None]] = [{} for _ in range(len(data) + 1)]
        self._waiting: list[defaultdict[str, list[_Item]]] = [defaultdict(list) for _ in range(len(data) + 1)]
        self.furthest = 0

    def read(self) -> _Child | None:
        """Fill the chart; the whole text as a child, or None if it is no text of the rules."""
        self._steps[0] = dict.fromkeys((rule, 0, 0) for rule in self._of_name[ROOT])
        for place in range(len(self._data) + 1):
            if not self._steps[place]:
                return None
            self.furthest = place
            self._fill(place)
        whole = [item for item in self._steps[-1] if self._over(item) and item[2] == 0 and self._name(item) == ROOT]
        return _Child(ROOT, 0, len(self._data), whole[0]) if whole else None

    def walk(self, top: _Child) -> Iterator[tuple[_Child, bool]]:
        """Children as they open (True) and close (False), from left to right."""
        tasks = [(top, True)]
        while tasks:
            child, opens = tasks.pop()
            yield child, opens
            if opens:
                tasks.append((child, False))
                tasks += ((inner, True) for inner in self._children(child))

    def _children(self, child: _Child) -> Iterator[_Child]:
        """From the last to the first."""
        step = self._steps[child.stop][child.item] if child.item is not None else None
        while step is not None:
            if step.child is not None:
                yield step.child
            step = self._steps[step.place][step.item]

    def _fill(self, place: int) -> None:
        """Follow all items at a place; those that this adds there are followed, too."""
        items, number = list(self._steps[place]), 0
        while number < len(items):
            rule, dot, start = item = items[number]
            number += 1
            symbols = self._rules[rule][1]
            if dot == len(symbols):
                items += self._return(item, place) if start < place else []
            elif isinstance(symbol := symbols[dot], str):
                items += self._call(symbol, item, place)
            elif place < len(self._data) and symbol >> self._data[place] & 1:
                self._steps[place + 1].setdefault((rule, dot + 1, start), _Step(item, place, None))

    def _return(self, item: _Item, place: int) -> list[_Item]:
        """Whoever called a rule that is over goes on; an empty one was passed when it was called."""
        name, start = self._name(item), item[2]
        child = _Child(name, start, place, item)
        return [
            new
            for rule, dot, origin in self._waiting[start][name]
            if self._add(new := (rule, dot + 1, origin), place, _Step((rule, dot, origin), start, child))
        ]

    def _call(self, name: str, item: _Item, place: int) -> list[_Item]:
        waiting = self._waiting[place][name]
        called = [(rule, 0, place) for rule in self._of_name[name]] if not waiting else []
        waiting.append(item)
        found = [new for new in called if self._add(new, place, None)]
        beyond = (item[0], item[1] + 1, item[2])
        if name in self._empty and self._add(beyond, place, _Step(item, place, _Child(name, place, place))):
            found.append(beyond)
        return found

    def _add(self, item: _Item, place: int, step: _Step | None) -> bool:
        if item in self._steps[place]:
            return False
        self._steps[place][item] = step
        return True

    def _over(self, item: _Item) -> bool:
        return item[1] == len(self._rules[item[0]][1])

    def _name(self, item: _Item) -> str:
        return self._rules[item[0]][0]


def _opened(by_name: dict[str, _Sequences], name: str) -> _Sequences:
    """Alternatives of a rule, those of a group if it is nothing but one."""
    found = by_name[name]
    while len(found) == 1 and len(found[0]) == 1 and str(found[0][0]).startswith("#"):
        found = by_name[str(found[0][0])]
    return found


def _leftward(name: str, sequences: _Sequences) -> _Sequences:
    """A repetition that calls itself at its end calls itself at its beginning; other rules stay as they are."""
    calls = [symbols for symbols in sequences if name in symbols]
    if len(sequences) != 2 or len(calls) != 1 or calls[0].index(name) != len(calls[0]) - 1:
        return sequences
    atom, [other] = calls[0][:-1], [symbols for symbols in sequences if name not in symbols]
    return [other, (name, *atom)] if other in ((), atom) else sequences


def _empty(rules: Rules) -> set[str]:
    found: set[str] = set()
    grew = True
    while grew:
        new = {name for name, options in rules.by_name.items() if any(found.issuperset(one) for one in options)}
        grew, found = new != found, new
    return found


def _built(walk: Iterator[tuple[_Child, bool]], shown: dict[str, str], text: str, start: int) -> Node:
    # the number of characters that begin before each byte
    before = [*itertools.accumulate((byte & 0xC0 != 0x80 for byte in text.encode()), initial=start)]
    open_children: list[list[Node]] = [[]]
    for child, opens in walk:
        if child.name not in shown and child.name != ROOT:
            continue
        if opens:
            open_children.append([])
            continue
        children = tuple(open_children.pop())
        rule = shown.get(child.name, ROOT)
        open_children[-1].append(Node(rule, before[child.start], before[child.stop], children))
    return open_children[0][0]
