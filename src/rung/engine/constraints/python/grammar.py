"""From the written grammar to tables: symbols, first terminals, what is left after a terminal, and what a symbol costs.

The parser is predictive over a set of stacks. For that the grammar may not be left-recursive; beyond it nothing is
asked, because alternatives that start alike are followed side by side till one dies.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cache, cached_property

from rung.engine.constraints.python.language import KEYWORDS, LANGUAGE, OPERATORS

__all__ = ["CLASSES", "IDS", "LINE", "TERMINALS", "Grammar", "grammar"]

CLASSES = "NAME NUMBER STRING BYTES FSTART FEND FOPEN FCLOSE FCOLON CONVERSION NEWLINE INDENT DEDENT END".split()
TERMINALS: tuple[str, ...] = (*CLASSES, *KEYWORDS, *OPERATORS)
IDS: dict[str, int] = {name: place for place, name in enumerate(TERMINALS)}
# LINE + n: a line whose first token stands after n spaces; the parser turns it into INDENT, DEDENT or nothing
LINE = 1000

# the fewest bytes of one terminal, and one more for a space after it
_PRICES = {"NAME": 2, "NUMBER": 2, "STRING": 3, "BYTES": 4, "FSTART": 3, "FEND": 4, "CONVERSION": 3}
_FREE = ("NEWLINE", "DEDENT", "END")
_WORDS = re.compile(r"'[^']+'|\w+|[\[\]()|*]")
_ENDLESS = 10**9


@dataclass(frozen=True)
class Grammar:
    """Symbols are numbers: terminals as in `IDS`, then nonterminals; `rules` maps the latter to their alternatives."""

    names: dict[str, int]
    rules: dict[int, tuple[tuple[int, ...], ...]]
    _costs: dict[tuple[int, int], dict[int, int]] = field(default_factory=dict)

    @cached_property
    def nullable(self) -> frozenset[int]:
        """Nonterminals that may be empty."""
        found: set[int] = set()
        size = -1
        while size != len(found):
            size = len(found)
            found |= {symbol for symbol, rules in self.rules.items() if any(found.issuperset(rule) for rule in rules)}
        return frozenset(found)

    @cached_property
    def tails(self) -> dict[int, dict[int, tuple[tuple[int, ...], ...]]]:
        """What may be left of a nonterminal after a terminal that starts it."""
        made: dict[int, dict[int, tuple[tuple[int, ...], ...]]] = {}
        for symbol in self.rules:
            self._tails_of(symbol, made)
        return made

    def _tails_of(
        self, symbol: int, made: dict[int, dict[int, tuple[tuple[int, ...], ...]]]
    ) -> dict[int, tuple[tuple[int, ...], ...]]:
        if symbol not in made:
            found: dict[int, dict[tuple[int, ...], None]] = {}
            for rule in self.rules[symbol]:
                for place, part in self._leading(rule):
                    rest = rule[place + 1 :]
                    below = {part: ((),)} if part < len(TERMINALS) else self._tails_of(part, made)
                    for terminal, tails in below.items():
                        found.setdefault(terminal, {}).update(dict.fromkeys((*tail, *rest) for tail in tails))
            made[symbol] = {terminal: tuple(tails) for terminal, tails in found.items()}
        return made[symbol]

    def _leading(self, rule: tuple[int, ...]) -> Iterator[tuple[int, int]]:
        """The symbols of a rule that may stand first in its text."""
        for place, part in enumerate(rule):
            yield place, part
            if part not in self.nullable:
                return

    def costs(self, column: int, unit: int) -> dict[int, int]:
        """For every symbol the fewest bytes of a text of it, spaces after tokens included, at an indentation.

        Args:
            column: spaces before the lines of the present block.
            unit: how many more a deeper block gets.
        """
        key = (column, unit)
        if key not in self._costs:
            self._costs[key] = self._fixed_point(column, unit)
        return self._costs[key]

    def _fixed_point(self, column: int, unit: int) -> dict[int, int]:
        cost = {IDS[name]: _PRICES.get(name, 2 if name in CLASSES else len(name) + 1) for name in TERMINALS}
        cost |= {IDS[name]: 0 for name in _FREE} | {IDS["INDENT"]: 1 + column + unit}
        cost |= dict.fromkeys(self.rules, _ENDLESS)
        cost[self.names["<BOL>"]] = 1 + column
        changed = True
        while changed:
            changed = False
            for symbol, rules in self.rules.items():
                least = min(sum(cost[part] for part in rule) for rule in rules)
                if least < cost[symbol] and symbol != self.names["<BOL>"]:
                    cost[symbol], changed = least, True
        return cost


@cache
def grammar() -> Grammar:
    """The tables of Python's subset, made once."""
    reader = _Reader()
    for line in filter(None, LANGUAGE.splitlines()):
        name, _, body = line.partition(":")
        reader.add(name, body)
    return Grammar(reader.names, {symbol: tuple(dict.fromkeys(rules)) for symbol, rules in reader.rules.items()})


class _Reader:
    """Turns lines of the notation into plain rules; groups become nonterminals without a name of their own."""

    def __init__(self) -> None:
        self.names: dict[str, int] = dict(IDS)
        self.rules: dict[int, list[tuple[int, ...]]] = {self._symbol("BOL"): [()]}
        self._words: list[str] = []

    def add(self, name: str, body: str) -> None:
        """Add the alternatives of one line."""
        self._words = _WORDS.findall(body)
        self.rules.setdefault(self._symbol(name), []).extend(self._alternatives())

    def _symbol(self, name: str) -> int:
        """The number of a class of terminals or of a nonterminal, whose name may be that of a keyword too."""
        return IDS[name] if name in CLASSES else self.names.setdefault(f"<{name}>", len(self.names))

    def _alternatives(self) -> list[tuple[int, ...]]:
        found = [self._sequence()]
        while self._words and self._words[0] == "|":
            self._words.pop(0)
            found.append(self._sequence())
        return found

    def _sequence(self) -> tuple[int, ...]:
        parts = []
        while self._words and self._words[0] not in ("|", ")", "]"):
            parts.append(self._item())
        return tuple(parts)

    def _item(self) -> int:
        word = self._words.pop(0)
        if word in ("(", "["):
            rules = self._alternatives()
            self._words.pop(0)
            symbol = self._fresh(rules + ([()] if word == "[" else []))
        else:
            symbol = IDS[word.strip("'")] if word[0] == "'" else self._symbol(word)
        if self._words and self._words[0] == "*":
            self._words.pop(0)
            repeated = self._fresh([()])
            self.rules[repeated].append((symbol, repeated))
            return repeated
        return symbol

    def _fresh(self, rules: list[tuple[int, ...]]) -> int:
        symbol = self._symbol(str(len(self.names)))
        self.rules[symbol] = rules
        return symbol
