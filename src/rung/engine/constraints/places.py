"""Where a text stands in a grammar, byte by byte, and how many tokens suffice to complete it from there.

Earley's method (1970) with shared states: a place is the set of positions in rules that the text so far allows, each
with what it returns to. Equal places are one object, so that what was found out about one (where a byte leads, which
tokens fit) is found out once for all sequences. A rule called at the very end of another returns to the other's
caller at once, which makes a loop over the characters of a string one place, whatever its length.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence

from rung.base.errors import SettingsError
from rung.engine.constraints.protocol import Vocabulary
from rung.engine.constraints.text import ROOT, Rules

__all__ = ["NEVER", "Grammar", "Place"]

NEVER = 1 << 28
_MOST_PLACES = 50_000


class Grammar:
    """Rules with what it costs, in tokens, to go through them.

    Raises:
        SettingsError: the grammar has no text that this vocabulary can spell.
    """

    def __init__(self, rules: Rules, vocabulary: Vocabulary) -> None:
        self.rules: list[tuple[str | int, ...]] = []
        self.of_name: dict[str, list[int]] = {}
        for name, alternatives in rules.by_name.items():
            self.of_name[name] = list(range(len(self.rules), len(self.rules) + len(alternatives)))
            self.rules += alternatives
        self.nullable = self._nullable()
        self.costs = _Costs(self, vocabulary).find()
        self._interned: dict[frozenset[Item], Place] = {}
        self.start = self.place({(rule, 0, None) for rule in self.of_name[ROOT]})
        if self.start.cost >= NEVER:
            raise SettingsError(
                "the grammar has no text that ends and that the model's tokens can spell",
                place="constraint",
                hint="give every rule an alternative that does not need the rule itself",
            )

    def place(self, items: Iterable[Item]) -> Place:
        """The place with these positions."""
        kernel = self._settled(items)
        found = self._interned.get(kernel)
        if found is None:
            if len(self._interned) >= _MOST_PLACES:
                self._interned.clear()
                self.start.following.clear()
            found = self._interned[kernel] = Place(self, kernel)
        return found

    def _settled(self, items: Iterable[Item]) -> frozenset[Item]:
        """Positions at the end of a rule give way to those they return to; the end of the text stays."""
        open_items, seen = list(items), set(items)
        kernel = set()
        while open_items:
            rule, dot, context = item = open_items.pop()
            if dot < len(self.rules[rule]):
                kernel.add(item)
            elif context is None:
                kernel.add(_END)
            else:
                new = [back for back in context[0].waiting[context[1]] if back not in seen]
                seen.update(new)
                open_items += new
        return frozenset(kernel)

    def _nullable(self) -> set[str]:
        found: set[str] = set()
        grew = True
        while grew:
            new = {n for n, rules in self.of_name.items() if any(found.issuperset(self.rules[r]) for r in rules)}
            grew, found = new != found, new
        return found


Item = tuple[int, int, "tuple[Place, str] | None"]
_END: Item = (-1, 0, None)


class Place:
    """A set of positions.

    Attributes:
        cost: tokens that suffice to complete the text; 0 where it is complete.
        edges: which bytes (as bits) lead to which positions.
        waiting: positions to go on from after a rule that was called here.
        following: places after bytes that were asked for.
    """

    __slots__ = ("_calls", "_grammar", "cost", "edges", "following", "waiting")

    def __init__(self, grammar: Grammar, kernel: frozenset[Item]) -> None:
        self._grammar = grammar
        self.edges: list[tuple[int, Item]] = []
        self.waiting: defaultdict[str, list[Item]] = defaultdict(list)
        self.following: dict[int, Place | None] = {}
        self._close(kernel)
        self._calls = self._call_costs()
        self.cost = min((self._cost(item) for item in kernel), default=NEVER)

    def step(self, byte: int) -> Place | None:
        """The place after one more byte; None where it does not fit."""
        if byte not in self.following:
            items = [item for bits, item in self.edges if bits >> byte & 1]
            self.following[byte] = self._grammar.place(items) if items else None
        return self.following[byte]

    def after(self, data: bytes) -> Place | None:
        """The place after some bytes."""
        place: Place | None = self
        for byte in data:
            if place is None:
                break
            place = place.step(byte)
        return place

    def forced(self, most: int) -> bytes:
        """Bytes that must follow, no more than `most`."""
        found, place = bytearray(), self
        while place.cost and len(found) < most:
            bits = 0
            for edge, _ in place.edges:
                bits |= edge
            following = place.step(bits.bit_length() - 1) if bits.bit_count() == 1 else None
            if following is None:
                break
            found.append(bits.bit_length() - 1)
            place = following
        return bytes(found)

    def _close(self, kernel: frozenset[Item]) -> None:
        """Everything that may come next: the rules called, and those called by them."""
        rules = self._grammar.rules
        open_items, seen = [item for item in kernel if item is not _END], set(kernel)
        while open_items:
            rule, dot, context = open_items.pop()
            symbols = rules[rule]
            if dot < len(symbols):
                new = self._expand(symbols[dot], (rule, dot + 1, context), dot + 1 == len(symbols))
            elif context is not None and context[0] is not self:
                new = context[0].waiting[context[1]]
            else:
                new = []  # an empty rule called here: whoever called it went past it as well
            open_items += [item for item in new if item not in seen]
            seen.update(new)

    def _expand(self, symbol: str | int, beyond: Item, last: bool) -> list[Item]:
        """What a position before `symbol` brings with it."""
        if isinstance(symbol, int):
            self.edges.append((symbol, beyond))
            return []
        if not last:
            self.waiting[symbol].append(beyond)
        returns = beyond[2] if last else (self, symbol)
        called: list[Item] = [(rule, 0, returns) for rule in self._grammar.of_name[symbol]]
        return [*called, beyond] if symbol in self._grammar.nullable else called

    def _call_costs(self) -> dict[str, int]:
        """Tokens that suffice after a rule called here, by name; a rule may have been called for itself."""
        self._calls = dict.fromkeys(self.waiting, NEVER)
        changed = True
        while changed:
            changed = False
            for name, items in self.waiting.items():
                cost = min(self._cost(item) for item in items)
                if cost < self._calls[name]:
                    self._calls[name], changed = cost, True
        return self._calls

    def _cost(self, item: Item) -> int:
        rule, dot, context = item
        if rule < 0:
            return 0
        beyond = context[0]._calls[context[1]] if context is not None else 0
        return min(NEVER, self._grammar.costs[rule][dot] + beyond)


class _Costs:
    """Tokens that suffice from every position of every rule to the rule's end: the least fixed point, literals spelled
    with the fewest tokens."""

    def __init__(self, grammar: Grammar, vocabulary: Vocabulary) -> None:
        self._grammar = grammar
        self._spelled = {token for token in vocabulary.tokens if token}
        self._longest = max((len(token) for token in self._spelled), default=0)
        self._single = sum({1 << token[0] for token in self._spelled if len(token) == 1})
        self._of_name = dict.fromkeys(grammar.of_name, NEVER)
        self._callers: defaultdict[str, set[str]] = defaultdict(set)
        for name, rules in grammar.of_name.items():
            for symbol in (symbol for rule in rules for symbol in grammar.rules[rule]):
                if isinstance(symbol, str):
                    self._callers[symbol].add(name)

    def find(self) -> list[Sequence[int]]:
        """By rule and position."""
        costs: list[Sequence[int]] = [()] * len(self._grammar.rules)
        waiting = dict.fromkeys(self._grammar.of_name)
        while waiting:
            name = next(iter(waiting))
            del waiting[name]
            for rule in self._grammar.of_name[name]:
                costs[rule] = self._along(self._grammar.rules[rule])
            least = min((costs[rule][0] for rule in self._grammar.of_name[name]), default=NEVER)
            if least < self._of_name[name]:
                self._of_name[name] = least
                waiting |= dict.fromkeys(self._callers[name])
        return costs

    def _along(self, symbols: tuple[str | int, ...]) -> list[int]:
        costs = [NEVER] * len(symbols) + [0]
        for place in reversed(range(len(symbols))):
            symbol = symbols[place]
            own = self._of_name[symbol] if isinstance(symbol, str) else self._of_bytes(symbol)
            spelled = self._spellings(symbols, place)
            costs[place] = min(NEVER, own + costs[place + 1], *(1 + costs[end] for end in spelled))
        return costs

    def _of_bytes(self, bits: int) -> int:
        return 1 if bits & self._single else NEVER

    def _spellings(self, symbols: tuple[str | int, ...], start: int) -> list[int]:
        """Where tokens of two bytes and more that spell a literal from `start` end."""
        data, ends = bytearray(), []
        for place in range(start, min(len(symbols), start + self._longest)):
            symbol = symbols[place]
            if isinstance(symbol, str) or symbol.bit_count() != 1:
                break
            data.append(symbol.bit_length() - 1)
            if len(data) > 1 and bytes(data) in self._spelled:
                ends.append(place + 1)
        return ends
