"""A reply that says something of its own, not the instruction over again.

Refuses a reply that is the instruction or a part of it, and one most of whose word triples stand in the instruction.
Replies of fewer than four words are refused only when they open the instruction or equal it: "hot or cold?" may be
answered "cold". It does not see a paraphrase.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["NotEcho"]


class NotEchoSettings(Settings):
    """How much may be repeated."""

    limit: float = Field(default=0.6, ge=0, le=1, description="largest share of word triples from the instruction")


class NotEcho(Verifier[NotEchoSettings]):
    """Whether the reply is more than an echo."""

    Settings = NotEchoSettings
    INSTRUCTION = "Write one short sentence about a happy dog."
    EXAMPLES = (
        ({}, "write one short sentence about a happy dog", False),
        ({}, "Write one short sentence about a happy dog. The dog wags its tail all day in the garden.", True),
        ({}, "Write a sentence. One short sentence about a happy dog.", False),
        ({}, "Happy dog", True),
        ({}, "Write one", False),
        ({}, "A happy dog runs in the sun.", True),
        ({"limit": 0.1}, "There is one short sentence about a dog.", False),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        asked, said = words(instruction), words(reply)
        if len(said) < 4:
            return verdict(asked[: len(said)] != said, "few words")
        triples = list(zip(said, said[1:], said[2:], strict=False))
        known = set(zip(asked, asked[1:], asked[2:], strict=False))
        share = sum(triple in known for triple in triples) / len(triples)
        return verdict(share <= self.settings.limit, f"{share:.0%} of its word triples are the instruction's")
