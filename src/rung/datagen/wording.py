"""Words and folding that pools, filters and heuristics share: when two texts are the same, what opens a request."""

from __future__ import annotations

import re
import unicodedata

__all__ = [
    "AUXILIARIES",
    "IMPERATIVES",
    "LANGUAGES",
    "QUESTION_WORDS",
    "UNFINISHED_WORDS",
    "first_word",
    "fold",
    "is_request",
    "jaccard",
    "predict_type",
    "words",
]


def _set(text: str) -> frozenset[str]:
    return frozenset(text.split())


QUESTION_WORDS = _set(
    """
    what which who whom whose when where why how
    """
)
AUXILIARIES = _set(
    """
    is are was were am do does did can could will would shall should may might must has have had
    """
)
IMPERATIVES = _set(
    """
    add analyse analyze answer apply arrange ask begin calculate call categorize change check choose classify
    close combine come compare complete compose compute conclude convert cook copy correct count create cut
    decide define demonstrate describe design determine develop discuss display divide do draft draw edit
    enumerate estimate evaluate expand explain express fill find finish fix form generate give group guess help
    identify imagine improve include insert invent join judge keep label let list look make mark match mention
    multiply name narrate open order organize outline paraphrase pick plan play point predict prepare present
    produce pronounce propose prove provide put rank rate read rearrange recall recite recommend record reduce
    remove rename repeat rephrase replace reply report respond retell return reverse review rewrite rhyme round
    say select send sentence separate shorten show simplify sing sketch solve sort spell split start state
    subtract suggest summarise summarize take talk teach tell think translate try turn type underline use verify
    write
    """
)
UNFINISHED_WORDS = _set(
    """
    a an the and or but of to in on at by for from with into onto about as than that which who whose because if
    when while where is are was were be been being has have had can could will would should may might must not
    my your his her its our their this these those some any such very more most also between through during such
    including
    """
)
LANGUAGES = _set(
    """
    arabic bengali chinese czech danish dutch english esperanto finnish french german greek hebrew hindi
    hungarian indonesian italian japanese korean latin mandarin norwegian persian polish portuguese punjabi
    romanian russian spanish swahili swedish tamil thai turkish ukrainian urdu vietnamese
    """
)

_LIST_OPENING = re.compile(
    r"^(?:list\b|(?:name|give me|give|write|suggest|find|mention|provide|what are)\s+(?:down\s+)?(?:a list|"
    r"a bulleted list|two|three|four|five|six|seven|eight|ten|some|several|the names|\d+)\b)",
    re.IGNORECASE,
)
_TYPE_RULES: tuple[tuple[str, re.Pattern[str]], ...] = (
    ("list_generation", _LIST_OPENING),
    (
        "rewriting",
        re.compile(
            r"^(?:translate|rewrite|rephrase|paraphrase|correct|summari[sz]e|shorten|simplify|convert|edit|change|fix)\b",
            re.I,
        ),
    ),
    (
        "classification",
        re.compile(
            r"^(?:classify|categorize|is|are|was|does|do|did|can|true or false)\b|\b(?:yes or no|true or false)\b", re.I
        ),
    ),
    (
        "creative",
        re.compile(
            r"\b(?:poem|story|song|slogan|joke|riddle|haiku|tale|lyrics|rhyme)\b|^(?:invent|imagine|make up)\b", re.I
        ),
    ),
    (
        "explanation",
        re.compile(r"^(?:explain|why|how (?:do|does|did|can|is|are)|describe|what is the difference)\b", re.I),
    ),
    ("instruction_following", re.compile(r"\b(?:json|capital letters|uppercase|in one word|exactly|repeat)\b", re.I)),
    (
        "factual",
        re.compile(r"^(?:what|which|who|when|where|how (?:many|much|long|old|far|tall|big)|in which)\b", re.I),
    ),
)


def fold(text: str) -> str:
    """The text without case, punctuation, accents of compatibility and runs of spaces: equal folds are the same."""
    plain = unicodedata.normalize("NFKC", text).casefold()
    kept = "".join(c if c.isalnum() or c.isspace() else " " for c in plain)
    return " ".join(kept.split())


def words(text: str) -> list[str]:
    """Folded words in order."""
    return fold(text).split()


def first_word(text: str) -> str:
    """The first folded word, empty when there is none."""
    return next(iter(words(text)), "")


def jaccard(left: frozenset[str], right: frozenset[str]) -> float:
    """Shared members over all members; 0.0 for two empty sets."""
    union = left | right
    return len(left & right) / len(union) if union else 0.0


def is_request(text: str) -> bool:
    """Whether a text asks for something: a question mark, or an opening question word, auxiliary or imperative.

    "In one word, ..." and "Please ..." are looked through: any sentence or clause that opens with one counts.
    """
    if "?" in text:
        return True
    openers = QUESTION_WORDS | AUXILIARIES | IMPERATIVES
    clauses = re.split(r"[.,:;!]\s+|\bplease\s+", text, flags=re.IGNORECASE)
    return any(first_word(clause) in openers for clause in clauses)


def predict_type(text: str, hint: str) -> str:
    """The type of an instruction: that of the first opening rule that fires, else the type it was generated under.

    Refusals cannot be told from openings, so whatever was generated under "safety" stays there.
    """
    if hint == "safety":
        return hint
    return next((name for name, rule in _TYPE_RULES if rule.search(text.strip())), hint)
