"""The language a reply is written in: English, French, Spanish, German, Italian, Portuguese or Dutch.

Counts function words that are frequent in each language (and telling letters) and accepts when the wanted language
has the most. Abstains when the reply holds none of them, as one or two content words do not say; refuses a tie.
"""

from __future__ import annotations

from typing import Literal

from rung.base.settings import Field, Settings
from rung.records.contracts import Score
from rung.scoring.reading import words
from rung.scoring.verifier import Verifier, abstain, verdict

__all__ = ["Language"]

_FUNCTION_WORDS = {
    "en": "the is are and of to in that it was for on with this have you i my we they he she at be not a an very",
    "fr": "le la les est sont et de du des un une dans que il elle je tu nous vous ils pour sur avec ce cette mon ma "
    "pas tres ne au aux en mes jai cest l d j qui y",
    "es": "el la los las es son y de del un una en que yo tu nosotros ellos para por con este esta mi muy no se su "
    "hay al lo me gusta esta tengo",
    "de": "der die das ist sind und von ein eine einen in dass ich du wir sie er es fur auf mit dieser mein meine "
    "nicht sehr zu im am den dem hat habe",
    "it": "il lo la i gli le e di del della un una in che io noi loro per su con questo questa mio mia non molto sono "
    "al nel mi piace ho ha",
    "pt": "o a os as e de do da um uma em que eu nos eles para por com este esta meu minha nao muito sao no na ao se "
    "tem esta",
    "nl": "de het een is zijn en van in dat ik jij wij zij hij voor op met deze mijn niet heel te aan heeft heb",
}
_LETTERS = {
    "fr": "\u00e7\u0153\u00e8\u00ea",
    "es": "\u00f1\u00bf\u00a1",
    "de": "\u00df\u00e4\u00f6\u00fc",
    "pt": "\u00e3\u00f5\u00e7",
}
_SETS = {code: frozenset(text.split()) for code, text in _FUNCTION_WORDS.items()}
_ACCENTED_COPULA = {"it": "\u00e8", "pt": "\u00e9"}


class LanguageSettings(Settings):
    """The language."""

    code: Literal["en", "fr", "es", "de", "it", "pt", "nl"] = Field(description="ISO 639-1 code of the language wanted")


class Language(Verifier[LanguageSettings]):
    """Whether the reply is in a language."""

    Settings = LanguageSettings
    EXAMPLES = (
        ({"code": "fr"}, "Le ciel est bleu.", True),
        ({"code": "fr"}, "The sky is blue.", False),
        ({"code": "fr"}, "El cielo es azul.", False),
        ({"code": "es"}, "El gato duerme en la casa.", True),
        ({"code": "de"}, "Ich trinke gern Tee und die Sonne scheint.", True),
        ({"code": "en"}, "My dog is in the garden.", True),
        ({"code": "it"}, "Il mare \u00e8 molto bello.", True),
        ({"code": "pt"}, "O mar \u00e9 muito bonito e eu gosto do sol.", True),
        ({"code": "fr"}, "Bonjour", None),
    )

    def judge(self, instruction: str, reply: str) -> Score:
        """See the module."""
        tokens, raw = words(reply), reply.casefold()
        scores = {
            code: float(sum(token in known for token in tokens))
            + 0.5 * sum(letter in raw for letter in _LETTERS.get(code, ""))
            + float(code in _ACCENTED_COPULA and f" {_ACCENTED_COPULA[code]} " in raw)
            for code, known in _SETS.items()
        }
        best = max(scores.values())
        if best == 0:
            return abstain("no function words to tell the language by")
        leading = [code for code, score in scores.items() if score == best]
        return verdict(leading == [self.settings.code], f"most like {'/'.join(leading)}")
