"""A known short answer (a name, a word, a date) with its aliases.

Accepts a reply whose first asserting sentence holds one of the answers as whole words (case, accents, punctuation and
a plural ending do not matter), or whose stated conclusion ("the answer is ...") does. What follows is not looked at,
so an explanation of any length may follow.

Refuses: the answer only later in the text; a negated answer ("it is not Paris"); a reply that names several
candidates (a list of entries or bare lines, three or more comma-separated ones, "Paris or London"); a rival named in
the same sentence. It cannot see whether a longer sentence says something true about the answer.
"""

from __future__ import annotations

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import bare_lines, conclusion, enumerated, find, fold, lead, marked_lines, mentions, words
from rung.scoring.verifier import Verifier, verdict

__all__ = ["ShortAnswer"]

_NEGATION = frozenset(
    ["not", "isnt", "arent", "wasnt", "werent", "never", "cannot", "cant", "doesnt", "dont", "didnt", "wont"]
)


class ShortAnswerSettings(Settings):
    """What counts as the answer."""

    answers: tuple[str, ...] = Field(min_length=1, description="accepted answers; `*` at the end lets a word go on")
    rivals: tuple[str, ...] = Field(default=(), description="wrong answers that must not stand in the same sentence")
    sentences: int = Field(default=1, ge=1, le=5, description="asserting sentences to look at, from the start")


class ShortAnswer(Verifier[ShortAnswerSettings]):
    """Whether the reply gives a known answer, and only that."""

    Settings = ShortAnswerSettings
    EXAMPLES = (
        ({"answers": ["Paris"]}, "Paris, London, Berlin, Madrid", False),
        ({"answers": ["Paris"]}, "1. Paris\n2. London\n3. Rome", False),
        ({"answers": ["Paris"]}, "Paris or London.", False),
        ({"answers": ["Paris"]}, "It is not Paris.", False),
        ({"answers": ["Paris"]}, "It is not London but Paris.", True),
        ({"answers": ["Paris"]}, "Sure! The capital of France is PARIS, which lies on the Seine.", True),
        ({"answers": ["Gracias"]}, "\u00a1Gracias!", True),
        ({"answers": ["Gracias"]}, "Bonjour.", False),
        ({"answers": ["ice"]}, "The price of rice is nice.", False),
        ({"answers": ["Mars"], "rivals": ["Venus"]}, "It is Mars, or rather Venus.", False),
        ({"answers": ["heart"]}, "Let us think about blood first. So the answer is: the heart.", True),
        ({"answers": ["red, white and blue"]}, "Red, white, and blue.", True),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module: the first sentences, then a stated conclusion."""
        if several := self._candidates(reply):
            return verdict(False, f"lists several candidates: {several}")
        said = [*lead(reply, self.settings.sentences), conclusion(reply)]
        for sentence in said:
            if mentions(self.settings.answers, sentence):
                return self._sentence(sentence)
        return verdict(False, f"none of {list(self.settings.answers)[:3]} in {' '.join(said).strip()[:60]!r}")

    def _sentence(self, sentence: str) -> Score:
        if mentions(self.settings.rivals, sentence):
            return verdict(False, "also names a rival answer")
        tokens = words(sentence)
        places = [find(answer, tokens) for answer in self.settings.answers]
        before = [tokens[max(0, place - 3) : place] for place in places if place >= 0]
        if all(_NEGATION & set(near) and "but" not in near for near in before):
            return verdict(False, "the answer is negated")
        if entries := enumerated(self.settings.answers, sentence):
            return verdict(False, f"lists several candidates: {entries}")
        return verdict(True, sentence[:60])

    def _candidates(self, reply: str) -> list[str]:
        """Entries of a list that opens the reply, when they differ and an answer is among them."""
        first = lead(reply)
        entries = marked_lines(reply) if first and marked_lines(reply)[:1] == first else []
        lines = bare_lines(reply)
        entries = entries or (lines if len(lines) >= 3 else [])
        wrong = {fold(entry) for entry in entries if not mentions(self.settings.answers, entry)}
        return entries[:4] if len(entries) >= 2 and wrong else []
