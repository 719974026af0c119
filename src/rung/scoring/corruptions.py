"""Known-good pairs made bad in named ways: what a critic must tell from the originals before it may gate.

Everything is decided by a seed and the pair's own text. A kind that cannot be applied to a pair (a one-word answer
cannot be truncated) gives no partner for it rather than a wrong one.
"""

from __future__ import annotations

import random
import re
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Literal

from rung.base.seeds import stream
from rung.scoring.known_pairs import KnownPair

__all__ = ["INSTRUCTION_KINDS", "PAIR_KINDS", "Corrupted", "Target", "corrupt"]

Target = Literal["pair", "instruction"]
_WORD = re.compile(r"\S+")
_LEAD_INS = ("", "You asked: ", "The instruction is: ")
_OFF_TOPIC = (
    "The regional railway extended its opening hours last week. Tickets can now be bought until nine in the evening, "
    "and the waiting room on platform two has new benches.",
    "My uncle kept pigeons on the roof for thirty years. Every Sunday he let them out and counted them as they came "
    "home, and he wrote the number into a small green book.",
    "Shares in the shipping company fell by two percent on Tuesday after the board announced that the new harbour "
    "would open later than planned. Analysts had expected a delay.",
    "The hotel has forty rooms, most of them with a view of the valley. Guests can use the sauna in the basement, and "
    "breakfast is served from seven until ten.",
    "After the match the supporters walked back to the station in the rain. Nobody sang this time, and the stalls that "
    "sold scarves had already closed.",
    "This cable fits all models built since 2015. Please check the label on the back of the device before ordering, "
    "because returned items must be unopened.",
)


@dataclass(frozen=True, slots=True)
class Corrupted:
    """A bad partner of a known pair: `source` is the pair's index, `kind` the name of what was done to it."""

    source: int
    kind: str
    instruction: str
    response: str
    type: str


def corrupt(pairs: Sequence[KnownPair], seed: int, target: Target = "pair") -> list[Corrupted]:
    """Every corruption of every pair that it can be applied to, in the order of kinds, then of pairs."""
    kinds = PAIR_KINDS if target == "pair" else INSTRUCTION_KINDS
    made = []
    for kind, make in kinds.items():
        partners = _partners(pairs, stream(seed, "partners", kind))
        for index, pair in enumerate(pairs):
            other = pairs[partners[index]] if index in partners else None
            changed = make(pair, other, stream(seed, kind, pair.instruction))
            if changed is None:
                continue
            instruction, response = (pair.instruction, changed) if target == "pair" else (changed, pair.response)
            made.append(Corrupted(index, kind, instruction, response, pair.type))
    return made


def _partners(pairs: Sequence[KnownPair], random_stream: random.Random) -> dict[int, int]:
    """For each pair another one with another answer, of its own type where the type has more than one."""
    by_type: dict[str, list[int]] = defaultdict(list)
    for index, pair in enumerate(pairs):
        by_type[pair.type].append(index)
    partners = {}
    for members in by_type.values():
        order = random_stream.sample(members, len(members))
        pool = order if len(order) > 1 else random_stream.sample(range(len(pairs)), len(pairs))
        for place, index in enumerate(order):
            rotated = [*pool[place + 1 :], *pool[: place + 1]]
            fits = [o for o in rotated if pairs[o].response.casefold() != pairs[index].response.casefold()]
            if fits:
                partners[index] = fits[0]
    return partners


_Make = Callable[[KnownPair, KnownPair | None, random.Random], str | None]


def _shuffled(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    return None if other is None else other.response


def _truncated(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    words = list(_WORD.finditer(pair.response))
    if len(words) < 6:
        return None
    keep = random_stream.randint(len(words) // 3, (2 * len(words)) // 3)
    text = pair.response[: words[keep - 1].end()]
    return text.rstrip(".!?,;:\"'") or None


def _repeated(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    return " ".join([pair.response] * random_stream.randint(3, 5))


def _off_topic(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    return random_stream.choice(_OFF_TOPIC)


def _empty(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    return ""


def _echo(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    return random_stream.choice(_LEAD_INS) + pair.instruction


def _scrambled_instruction(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    words = _WORD.findall(pair.instruction)
    mixed = random_stream.sample(words, len(words))
    return " ".join(mixed) if mixed != words else None


def _truncated_instruction(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    words = list(_WORD.finditer(pair.instruction))
    if len(words) < 4:
        return None
    return pair.instruction[: words[random_stream.randint(1, len(words) // 2)].end()]


def _repeated_instruction(pair: KnownPair, other: KnownPair | None, random_stream: random.Random) -> str | None:
    return " ".join([pair.instruction] * random_stream.randint(3, 5))


PAIR_KINDS: Mapping[str, _Make] = MappingProxyType(
    {
        "shuffled": _shuffled,
        "truncated": _truncated,
        "repeated": _repeated,
        "off_topic": _off_topic,
        "empty": _empty,
        "echo": _echo,
    }
)
"""What is done to responses: another instruction's answer; cut in mid-sentence; looped three to five times; a
paragraph about something else; nothing; the instruction given back."""

INSTRUCTION_KINDS: Mapping[str, _Make] = MappingProxyType(
    {
        "scrambled": _scrambled_instruction,
        "truncated": _truncated_instruction,
        "repeated": _repeated_instruction,
        "statement": _off_topic,
        "empty": _empty,
    }
)
"""What is done to instructions: words in another order; cut in the middle; looped; a paragraph that asks for nothing
in its place; nothing."""
