"""The share of an answer that is in one language, against mixing languages while thinking (DeepSeek-R1, 2501.12948).

Each sentence is judged alone by the verifier `language`, weighted by its words; sentences that hold no telling word
(numbers, formulas, names) are left out, and where none is left the reward abstains. R1's authors report that this
reward costs a little accuracy: measure it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Literal

from rung.base.settings import Field, Settings
from rung.records.contracts import Item, Score, Trace
from rung.scoring.reading import sentences, words
from rung.scoring.reward import Example, Lent, Range, Reward
from rung.scoring.verifiers.language import Language as LanguageVerifier

__all__ = ["Language"]


class LanguageSettings(Settings):
    """The language."""

    code: Literal["en", "fr", "es", "de", "it", "pt", "nl"] = Field(default="en", description="ISO 639-1 code wanted")


class Language(Reward[LanguageSettings]):
    """The share of words that stand in sentences of the wanted language."""

    Settings = LanguageSettings
    EXAMPLES = (
        Example({}, "The sum is twelve. It is even.", 1.0),
        Example({}, "Le ciel est bleu et la mer est belle.", 0.0),
        Example({}, "The sky is blue. Le ciel est bleu.", 0.5),
        Example({}, "12 + 5 = 17", None),
        Example({"code": "de"}, "Ich trinke gern Tee und die Sonne scheint. 3 + 4 = 7.", 1.0),
    )

    def __init__(self, settings: LanguageSettings, lent: Lent | None = None) -> None:
        super().__init__(settings, lent)
        self._verifier = LanguageVerifier(LanguageVerifier.Settings(code=settings.code))

    @property
    def range(self) -> Range:
        """0 to 1."""
        return Range(0.0, 1.0)

    def judge(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """See the module."""
        return [self._of(trace.text) for trace in traces]

    def _of(self, text: str) -> Score:
        judged = [(len(words(one)), self._verifier.judge("", one)) for one in sentences(text) if words(one)]
        decided = [(weight, score.value) for weight, score in judged if score.value is not None]
        total = sum(weight for weight, _ in decided)
        if not total:
            return Score(None, "no sentence tells its language", abstained=True)
        return Score(sum(w * v for w, v in decided) / total, f"{len(decided)} of {len(judged)} sentences decided")
