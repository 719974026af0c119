"""The families of flawed pairs: what is asked, both responses, and what verifying each of them shows."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from types import MappingProxyType

__all__ = ["FAMILIES", "FlawedPair", "Side"]

_NAMES = ("Ann", "Bob", "Cara", "Dan", "Eva", "Finn", "Gina", "Hugo", "Ida", "Jon", "Kim", "Leo")
_COLOURS = ("red", "blue", "green", "white", "black", "yellow", "brown", "grey")
_THINGS = ("car", "hat", "door", "bag", "coat", "bike", "cup", "book", "lamp", "chair")
_FRUITS = ("apple", "pear", "plum", "peach", "lemon", "cherry", "grape", "mango", "melon", "orange")
_MORE = ("taller", "older", "faster", "stronger", "richer", "younger")
_SUBJECTS = (
    "rain", "bread", "the sun", "a bridge", "sleep", "a clock", "salt", "a river", "paper", "music",
    "snow", "glass", "a garden", "a letter", "coffee", "wood", "a shoe", "the moon", "a train", "wool",
)  # fmt: skip
_POINTS = (
    "cost", "weight", "colour", "age", "use", "origin", "shape", "size", "smell", "taste", "speed", "name",
)  # fmt: skip
_ENDINGS = (
    "done", "thanks", "goodbye", "over", "cheers", "amen", "end", "stop", "bye", "finished", "ready", "enough",
    "yes", "good", "out", "last",
)  # fmt: skip
_LISTS = ("values", "numbers", "scores", "prices", "weights", "ages", "marks", "items", "counts", "temperatures")
_DANGERS = (
    (
        "reads a number from the user",
        "int(input())",
        "eval(input())",
        "the input is only parsed",
        "eval runs any input",
    ),
    (
        "lists the folder that the user names",
        "subprocess.run(['ls', name])",
        "subprocess.run('ls ' + name, shell=True)",
        "the name is one argument",
        "a shell runs what the name holds",
    ),
    (
        "finds the user by name",
        "db.execute('SELECT * FROM users WHERE name = ?', (name,))",
        "db.execute('SELECT * FROM users WHERE name = ' + name)",
        "the name is a bound value",
        "the name can carry SQL",
    ),
    (
        "loads the settings from a file",
        "json.load(file)",
        "pickle.load(file)",
        "json holds data alone",
        "pickle runs code from the file",
    ),
)
_FILLERS = ("really", "very", "quite", "rather", "just", "simply")


@dataclass(frozen=True, slots=True)
class Side:
    """A response, what looks worth verifying in it, and what verifying it shows."""

    response: str
    suspicion: str
    finding: str


@dataclass(frozen=True, slots=True)
class FlawedPair:
    """A good response and one with a flaw. `dimensions` are those of the flaw, `key` says what is asked."""

    family: str
    key: str
    context: str
    dimensions: tuple[str, ...]
    hierarchy: str
    good: Side
    bad: Side


def _variable(rng: random.Random) -> str:
    return "_".join(rng.choice(words) for words in (_COLOURS, _THINGS, _LISTS))


def _sums(rng: random.Random) -> FlawedPair:
    a, b, c = rng.randint(2, 20), rng.randint(2, 20), rng.randint(2, 9)
    wrong = a + b + rng.choice((-2, -1, 1, 2))

    def side(total: int, verdict: str) -> Side:
        """A worked answer whose second step is right for whatever the first one gave."""
        steps = f"{a} + {b} = {total}, and {total} + {c} = {total + c}. The answer is {total + c}."
        return Side(steps, f"{a} + {b} = {total}", f"{a} + {b} is {a + b}, it says {total}: {verdict}")

    return FlawedPair(
        "sums", f"{sorted((a, b))} {c}", f"What is {a} + {b} + {c}?", ("Computational Precision",), "correctness",
        side(a + b, "right"), side(wrong, "wrong"),
    )  # fmt: skip


def _facts(rng: random.Random) -> FlawedPair:
    name, thing = rng.choice(_NAMES), rng.choice(_THINGS)
    true, false = rng.sample(_COLOURS, 2)
    told = f"{name} has a {true} {thing}."

    def side(colour: str, verdict: str) -> Side:
        """An answer that names a colour."""
        return Side(
            f"The {thing} of {name} is {colour}.",
            f"the colour {colour}",
            f"the text says {true}, it says {colour}: {verdict}",
        )

    return FlawedPair(
        "facts", f"{name} {thing} {true}", f"{told} What colour is the {thing}?", ("Information Accuracy",),
        "correctness", side(true, "right"), side(false, "wrong"),
    )  # fmt: skip


def _orders(rng: random.Random) -> FlawedPair:
    first, second, third = rng.sample(_NAMES, 3)
    more = rng.choice(_MORE)
    context = f"{first} is {more} than {second}. {second} is {more} than {third}. Who is {more}, {first} or {third}?"

    def side(one: str, other: str, verdict: str) -> Side:
        """An answer that compares the two ends."""
        return Side(
            f"By {second}, {one} is {more} than {other}.",
            f"{one} {more} than {other}",
            f"{first} then {second} then {third}, it says {one} over {other}: {verdict}",
        )

    return FlawedPair(
        "orders", f"{more} {first} {second} {third}", context, ("Logical Reasoning",), "correctness",
        side(first, third, "right"), side(third, first, "wrong"),
    )  # fmt: skip


def _loops(rng: random.Random) -> FlawedPair:
    name, last = _variable(rng), rng.randint(3, 30)
    context = f"Write Python that prints the whole numbers from 1 to {last}, using the name {name}."

    def side(stop: int, verdict: str) -> Side:
        """A loop with its last bound."""
        return Side(
            f"{name} = range(1, {stop})\nfor n in {name}:\n    print(n)",
            f"range(1, {stop})",
            f"it ends at {stop - 1}, {last} is wanted: {verdict}",
        )

    return FlawedPair(
        "loops", f"{name} {last}", context, ("Implementation Capability",), "correctness",
        side(last + 1, "right"), side(last, "wrong"),
    )  # fmt: skip


def _dangers(rng: random.Random) -> FlawedPair:
    task, safe, unsafe, why_safe, why_unsafe = rng.choice(_DANGERS)
    name = _variable(rng)
    context = f"Write one line of Python that {task} and keeps the result in {name}."
    return FlawedPair(
        "dangers", f"{task} {name}", context, ("Safety Awareness", "Implementation Capability"), "correctness",
        Side(f"{name} = {safe}", f"the call {safe.split('(')[0]}", f"{why_safe}: safe"),
        Side(f"{name} = {unsafe}", f"the call {unsafe.split('(')[0]}", f"{why_unsafe}: unsafe"),
    )  # fmt: skip


def _parts(rng: random.Random) -> FlawedPair:
    subject = rng.choice(_SUBJECTS)
    wanted = rng.sample(_POINTS, 3)
    spare = rng.choice([point for point in _POINTS if point not in wanted])
    missing = rng.randrange(3)
    listed = [spare if n == missing else point for n, point in enumerate(wanted)]
    asked = ", ".join(wanted)

    def side(points: list[str], verdict: str) -> Side:
        """A list of points in their order."""
        said = ", ".join(points)
        return Side(f"On {subject}: {said}.", f"the points {said}", f"asked are {asked}, it has {said}: {verdict}")

    return FlawedPair(
        "parts", f"{subject} {sorted(wanted)}", f"Name these points about {subject}: {asked}.",
        ("Response Completeness",), "adherence", side(wanted, "all there"), side(listed, f"{wanted[missing]} missing"),
    )  # fmt: skip


def _endings(rng: random.Random) -> FlawedPair:
    fruits = rng.sample(_FRUITS, 2)
    wanted, other = rng.sample(_ENDINGS, 2)
    context = f"Name two fruits and end with the word {wanted}."

    def side(last: str, verdict: str) -> Side:
        """The fruits and a last word."""
        return Side(
            f"{fruits[0]} and {fruits[1]}, {last}",
            f"the last word {last}",
            f"{wanted} is asked, it ends with {last}: {verdict}",
        )

    return FlawedPair(
        "endings", f"{wanted} {sorted(fruits)}", context, ("Instruction Adherence",), "adherence",
        side(wanted, "kept"), side(other, "broken"),
    )  # fmt: skip


def _style(rng: random.Random) -> FlawedPair:
    subject, point = rng.choice(_SUBJECTS), rng.choice(_POINTS)
    filler, again = rng.choice(_FILLERS), rng.randint(2, 3)
    clear = f"The {point} of {subject} matters {filler} much."
    muddled = f"The {point} of {subject} matters {' '.join([filler] * (again + 1))} much."
    return FlawedPair(
        "style", f"{subject} {point} {filler}", f"Say in one sentence that the {point} of {subject} matters.",
        ("Communication Clarity",), "intent",
        Side(clear, f"the word {filler}", f"{filler} stands once: clear"),
        Side(muddled, f"the word {filler}", f"{filler} stands {again + 1} times: muddled"),
    )  # fmt: skip


FAMILIES: Mapping[str, Callable[[random.Random], FlawedPair]] = MappingProxyType(
    {
        "sums": _sums,
        "facts": _facts,
        "orders": _orders,
        "loops": _loops,
        "dangers": _dangers,
        "parts": _parts,
        "endings": _endings,
        "style": _style,
    }
)
