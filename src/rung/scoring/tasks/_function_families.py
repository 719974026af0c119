"""Families of small functions: how each is asked for, the reference solution, and arguments to test it with.

A family draws its parameters at a difficulty and gives the text, the code and how arguments are drawn. Texts, code and
families are rung's own.
"""

from __future__ import annotations

import random
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

__all__ = ["FAMILIES", "Drawn"]


@dataclass(frozen=True, slots=True)
class Drawn:
    """One function: its header's arguments, what it returns in words, the body of the reference (lines), the
    arguments of one test at a time, and bodies that look right and are not."""

    name: str
    arguments: str
    asks: str
    body: tuple[str, ...]
    given: Callable[[random.Random], tuple[Any, ...]]
    wrong: tuple[str, ...]


_LETTERS = "abcdefghijklmnoprstuw"


def _word(rng: random.Random, most: int = 8) -> str:
    return "".join(rng.choice(_LETTERS) for _ in range(rng.randint(1, most)))


def _numbers(rng: random.Random, least: int = 0, most: int = 8) -> list[int]:
    return [rng.randint(-20, 20) for _ in range(rng.randint(least, most))]


def _one_number(rng: random.Random) -> tuple[Any, ...]:
    return (rng.randint(-30, 30),)


def _one_list(rng: random.Random) -> tuple[Any, ...]:
    return (_numbers(rng),)


def _one_word(rng: random.Random) -> tuple[Any, ...]:
    return (_word(rng),)


def _linear(rng: random.Random, difficulty: int) -> Drawn:
    factor, add = rng.randint(2, 3 + 2 * difficulty), rng.randint(1, 9 * difficulty)
    return Drawn(
        "scale", "n", f"n times {factor} plus {add}", (f"return n * {factor} + {add}",), _one_number,
        (f"return n * {factor} - {add}", f"return n + {factor} * {add}"),
    )  # fmt: skip


def _remainder(rng: random.Random, difficulty: int) -> Drawn:
    by = rng.randint(2, 5 + 3 * difficulty)
    return Drawn(
        "divisible", "n", f"True if n is divisible by {by}, and False otherwise", (f"return n % {by} == 0",),
        lambda r: (r.choice((r.randint(1, 9) * by, r.randint(-30, 60))),), (f"return n % {by}", "return True"),
    )  # fmt: skip


def _clamp(rng: random.Random, difficulty: int) -> Drawn:
    low = rng.randint(-10, 5)
    high = low + rng.randint(3, 5 + 4 * difficulty)
    return Drawn(
        "clamp", "n", f"{low} if n is below {low}, {high} if n is above {high}, and n otherwise",
        (f"return max({low}, min({high}, n))",), _one_number, (f"return min({low}, max({high}, n))", "return n"),
    )  # fmt: skip


def _repeat(rng: random.Random, difficulty: int) -> Drawn:
    times, joint = rng.randint(2, 2 + difficulty), rng.choice(("", "-", "+", " "))
    joined = f" joined by {joint!r}" if joint else " without anything between"
    return Drawn(
        "repeat", "word", f"the word written {times} times,{joined}", (f"return {joint!r}.join([word] * {times})",),
        _one_word, (f"return word * {times + 1}", "return word"),
    )  # fmt: skip


def _ends(rng: random.Random, difficulty: int) -> Drawn:
    count, side = rng.randint(1, difficulty + 1), rng.choice(("first", "last"))
    cut, other = (f"[:{count}]", f"[-{count}:]") if side == "first" else (f"[-{count}:]", f"[:{count}]")
    plural = "letter" if count == 1 else f"{count} letters"
    return Drawn(
        "part", "word", f"the {side} {plural} of the word (all of it if it is shorter)", (f"return word{cut}",),
        lambda r: (_word(r) + "xyz"[: r.randint(0, 3)],), (f"return word{other}", f"return word[{count}:]"),
    )  # fmt: skip


def _count_letter(rng: random.Random, difficulty: int) -> Drawn:
    letters = "".join(rng.sample("aeiorst", min(difficulty, 4)))
    asked = f"how many letters of the word are in {letters!r}" if difficulty > 1 else f"how often {letters!r} is in it"
    return Drawn(
        "count", "word", asked, (f"return sum(word.count(c) for c in {letters!r})",),
        lambda r: (_word(r) + letters[0] * r.randint(0, 2),), ("return len(word)", f"return {letters[0]!r} in word"),
    )  # fmt: skip


def _above(rng: random.Random, difficulty: int) -> Drawn:
    limit = rng.randint(-5, 5 * difficulty)
    above = rng.random() < 0.5
    sign, other = (">", "<") if above else ("<", ">")
    asked = f"a list of the numbers that are {'greater' if above else 'less'} than {limit}, in the same order"
    return Drawn(
        "keep", "numbers", asked, (f"return [n for n in numbers if n {sign} {limit}]",),
        lambda r: ([*_numbers(r), limit],),
        (f"return [n for n in numbers if n {other} {limit}]", f"return [n for n in numbers if n {sign}= {limit}]"),
    )  # fmt: skip


def _mapped(rng: random.Random, difficulty: int) -> Drawn:
    factor = rng.randint(2, 4 + 2 * difficulty)
    sign = rng.choice("+*-")
    word = {"+": f"{factor} added to it", "*": f"multiplied by {factor}", "-": f"{factor} subtracted from it"}[sign]
    return Drawn(
        "change", "numbers", f"a list with every number {word}", (f"return [n {sign} {factor} for n in numbers]",),
        _one_list, ("return numbers", f"return [n / {factor} for n in numbers]"),
    )  # fmt: skip


def _chosen_sum(rng: random.Random, difficulty: int) -> Drawn:
    by = rng.randint(2, 2 + difficulty)
    rest = rng.randrange(by)
    asked = f"the sum of the numbers whose remainder by {by} is {rest} (0 if there are none)"
    return Drawn(
        "total", "numbers", asked, (f"return sum(n for n in numbers if n % {by} == {rest})",), _one_list,
        ("return sum(numbers)", f"return sum(n for n in numbers if n % {by} != {rest})"),
    )  # fmt: skip


def _ordered(rng: random.Random, difficulty: int) -> Drawn:
    count, largest = rng.randint(1, 1 + difficulty), rng.random() < 0.5
    size = "largest" if largest else "smallest"
    return Drawn(
        "extremes", "numbers", f"a list of the {count} {size} numbers, the {size} first (all if there are fewer)",
        (f"return sorted(numbers, reverse={largest})[:{count}]",), lambda r: (_numbers(r, 1),),
        (f"return sorted(numbers, reverse={not largest})[:{count}]", f"return numbers[:{count}]"),
    )  # fmt: skip


def _parsed(rng: random.Random, difficulty: int) -> Drawn:
    mark = rng.choice(",;|/")
    kind, make = rng.choice((("sum", "sum"), ("largest", "max"), ("smallest", "min")))
    return Drawn(
        "read", "text", f"the {kind} of the whole numbers in a text such as '3{mark}10{mark}-2'",
        (f"return {make}(int(part) for part in text.split({mark!r}))",),
        lambda r: (mark.join(map(str, _numbers(r, 1, 2 + difficulty))),),
        (f"return len(text.split({mark!r}))", f"return text.split({mark!r})"),
    )  # fmt: skip


def _pairs(rng: random.Random, difficulty: int) -> Drawn:
    mark, joint = rng.choice(",;&"), rng.choice("=:")
    return Drawn(
        "options", "text",
        f"a dict of names and texts from a text such as 'a{joint}x{mark}b{joint}y' (an empty dict for an empty text)",
        (f"return dict(part.split({joint!r}) for part in text.split({mark!r}) if part)",),
        lambda r: (mark.join(f"{_word(r, 3)}{joint}{_word(r, 3)}" for _ in range(r.randint(0, 2 + difficulty))),),
        ("return {}", f"return text.split({mark!r})"),
    )  # fmt: skip


def _steps(rng: random.Random, difficulty: int) -> Drawn:
    sizes = sorted(rng.sample(range(1, 4 + difficulty), 2))
    asked = f"the number of ways to climb n stairs with steps of {sizes[0]} or {sizes[1]} (order counts; 1 for n = 0)"
    return Drawn(
        "climb", "n", asked,
        ("ways = [1]", "for k in range(1, n + 1):", f"    ways.append(sum(ways[k - s] for s in {sizes} if s <= k))",
         "return ways[n]"),
        lambda r: (r.randint(0, 12),), ("return n", f"return n // {sizes[0]}"),
    )  # fmt: skip


def _run_sum(rng: random.Random, difficulty: int) -> Drawn:
    length = rng.randint(2, 2 + difficulty)
    asked = f"the largest sum of {length} neighbouring numbers of a list that has at least {length}"
    return Drawn(
        "best", "numbers", asked,
        (f"return max(sum(numbers[i:i + {length}]) for i in range(len(numbers) - {length - 1}))",),
        lambda r: (_numbers(r, length, length + 6),),
        (f"return sum(numbers[:{length}])", f"return sum(sorted(numbers)[-{length}:])"),
    )  # fmt: skip


FAMILIES: dict[str, tuple[int, Callable[[random.Random, int], Drawn]]] = {
    "linear": (1, _linear),
    "remainder": (1, _remainder),
    "repeat": (1, _repeat),
    "ends": (1, _ends),
    "mapped": (1, _mapped),
    "above": (1, _above),
    "clamp": (2, _clamp),
    "count_letter": (2, _count_letter),
    "chosen_sum": (2, _chosen_sum),
    "ordered": (3, _ordered),
    "parsed": (3, _parsed),
    "pairs": (3, _pairs),
    "run_sum": (4, _run_sum),
    "steps": (4, _steps),
}
"""Each family with the difficulty from which it is drawn."""
