"""Items and scores of the package reasoning-gym (runs apart only).

Only families whose scorers compare text or numbers are let in: others hand the answer to an evaluator of Python or
sympy, in which a reply could run code.
"""

from __future__ import annotations

import importlib
from functools import lru_cache
from typing import Any

__all__ = ["FAMILIES", "answer"]

FAMILIES = (
    "base_conversion",
    "caesar_cipher",
    "calendar_arithmetic",
    "chain_sum",
    "count_bits",
    "count_primes",
    "family_relationships",
    "gcd",
    "lcm",
    "leg_counting",
    "letter_counting",
    "number_sequence",
    "prime_factorization",
    "products",
    "simple_equations",
    "spell_backward",
    "syllogism",
    "time_intervals",
)
_SIZE = 100_000


def answer(ask: dict[str, Any]) -> dict[str, Any]:
    """The item `index` of a family at a level and seed; with `reply`, its own score of that reply too."""
    dataset = _dataset(ask["family"], ask["level"], ask["seed"])
    entry = dataset[ask["index"]]
    found = {"question": entry["question"], "answer": str(entry["answer"])}
    if "reply" in ask:
        found["score"] = float(dataset.score_answer(ask["reply"], entry))
    return found


@lru_cache(maxsize=64)
def _dataset(family: str, level: int, seed: int) -> Any:
    if family not in FAMILIES:
        raise ValueError(f"the family {family} is not let in")
    factory = importlib.import_module("reasoning_gym.factory")
    curriculum = factory.create_curriculum(family)
    for name in curriculum.attributes:
        for _ in range(level - 1):
            curriculum.increment_attr_level(name)
    configuration = curriculum.generate_configuration({"seed": seed, "size": _SIZE})
    return factory.DATASETS[family][0](configuration)
