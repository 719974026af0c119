"""Small propositional puzzles: does a conclusion follow from the premises? Z3 decides when the item is made.

Difficulty sets the number of statements and how they are put together. Yes or no is asked for, in equal shares as far
as the key's hash allows; half the points are therefore guesswork, and a group's baseline is to be read against 0.5.
"""

from __future__ import annotations

import random

from rung.scoring.proving import ProofSettings, prover
from rung.scoring.task import Generated, Question, TaskSettings
from rung.scoring.tasks._words import NAMES

__all__ = ["Logic"]

_CONNECTIVES = (
    ("if {0} comes, {1} comes", "({0} == 0 or {1} != 0)"),
    ("{0} or {1} comes (or both)", "({0} != 0 or {1} != 0)"),
    ("{0} and {1} do not both come", "({0} == 0 or {1} == 0)"),
    ("{0} comes exactly when {1} comes", "(({0} == 0) == ({1} == 0))"),
)
_PROOF = ProofSettings()


class LogicSettings(TaskSettings):
    """How many statements."""


class Logic(Generated[LogicSettings]):
    """Yes-or-no questions about who comes to a party."""

    Settings = LogicSettings

    def draw(self, rng: random.Random) -> Question:
        """One puzzle whose premises can be true together; the answer wanted is drawn first, then searched for."""
        wanted = rng.random() < 0.5
        for _ in range(50):
            names = rng.sample(NAMES, 2 + (self.settings.difficulty + 1) // 2)
            said, premises = self._premises(rng, names)
            about, comes = rng.choice(names), rng.random() < 0.7
            follows = self._follows(premises, f"{about} != 0" if comes else f"{about} == 0", names)
            if follows == wanted:
                break
        answer = "yes" if follows else "no"
        other = "no" if follows else "yes"
        question = f"Does it follow that {about} {'comes' if comes else 'does not come'}?"
        return Question(
            f"{'. '.join(text[0].upper() + text[1:] for text in said)}. {question} Answer yes or no.",
            answer,
            {"final_answer": {"answer": answer}},
            f"{sorted(said)} {about} {comes}",
            "text",
            (other, f"{other}, {answer}", "maybe"),
        )

    def _premises(self, rng: random.Random, names: list[str]) -> tuple[list[str], list[str]]:
        """A fact and some connections, each as words and as a formula over 0 and 1."""
        first, comes = rng.choice(names), rng.random() < 0.6
        said = [f"{first} {'comes' if comes else 'does not come'}"]
        formulas = [f"{first} != 0" if comes else f"{first} == 0"]
        for _ in range(self.settings.difficulty):
            one, two = rng.sample(names, 2)
            words, formula = rng.choice(_CONNECTIVES)
            said.append(words.format(one, two))
            formulas.append(formula.format(one, two))
        rng.shuffle(said)
        return said, formulas

    @staticmethod
    def _follows(premises: list[str], conclusion: str, names: list[str]) -> bool | None:
        """Whether the conclusion is proved; None when the premises contradict each other or Z3 gives up."""
        ask = {"kind": "identity", "left": "True", "right": conclusion, "assume": " and ".join(premises)}
        outcome = prover().prove({**ask, "variables": names}, _PROOF).outcome
        return {"proved": True, "refuted": False}.get(outcome)
