"""How a reply is read before anything is judged: folding, sentences, lists, numbers, echoes of the question.

Every verifier reads through this file, so that all of them agree on what a word, a sentence and an answer's beginning
are. Nothing here looks at how long a reply is.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Iterable, Sequence

__all__ = [
    "bare_lines",
    "conclusion",
    "enumerated",
    "find",
    "first_paragraph",
    "fold",
    "lead",
    "listed",
    "marked_lines",
    "mentions",
    "numbers_in",
    "sentences",
    "without_echo",
    "words",
]

_MARK = re.compile(r"^\s*(?:[-*\u2022\u2013]|\(?\d{1,2}[.):]|\(?[a-zA-Z][.)])\s+(?=\S)")
_INLINE_NUMBER = re.compile(r"(?:(?<=\s)|^)\(?\d{1,2}[.)]\s+(?=\S)")
_SEPARATOR = re.compile(r"\s*[,;/|]\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+")
_MASK = "ANSWER0"
_ENDS = re.compile(r"(?<=[.!?])[\"')\]]*\s+|\n+")
_ABBREVIATION = re.compile(r"(?:\b(?:[A-Z]|Mr|Mrs|Ms|Dr|St|vs|e\.g|i\.e)\.)$")
_OPENERS = frozenset(
    [
        "sure",
        "certainly",
        "of course",
        "yes of course",
        "great question",
        "good question",
        "ok",
        "okay",
        "absolutely",
        "hello",
        "hi",
        "answer",
        "response",
        "the answer is",
        "here you go",
        "here it is",
        "thank you for asking",
        "no problem",
    ]
)
_CONCLUSION = re.compile(r"\b(?:answer|result|total|sum|solution)\b[^.\n]{0,40}?(?:\bis\b|\bare\b|=|:)\s*", re.I)
_NUMBER = re.compile(
    r"(?<![\w.])[-\u2212]?\$?\d{1,3}(?:,\d{3})+(?:\.\d+)?|(?<![\w.])[-\u2212]?\$?\d+(?:\.\d+)?|\b[a-z]+(?:-[a-z]+)?\b",
    re.I,
)
_UNITS = dict(
    zip(
        [
            "zero",
            "one",
            "two",
            "three",
            "four",
            "five",
            "six",
            "seven",
            "eight",
            "nine",
            "ten",
            "eleven",
            "twelve",
            "thirteen",
            "fourteen",
            "fifteen",
            "sixteen",
            "seventeen",
            "eighteen",
            "nineteen",
        ],
        range(20),
        strict=True,
    )
)
_TENS = dict(
    zip(["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"], range(20, 100, 10), strict=True)
)


def fold(text: str) -> str:
    """Lower case, accents and apostrophes removed, every other mark a space: the form in which words are compared."""
    plain = unicodedata.normalize("NFKD", text.replace("\u2019", "'")).casefold().replace("'", "")
    kept = (c if c.isalnum() else " " for c in plain if not unicodedata.combining(c))
    return " ".join("".join(kept).split())


def words(text: str) -> list[str]:
    """The folded words."""
    return fold(text).split()


def without_echo(instruction: str, reply: str) -> str:
    """The reply after a verbatim repetition of the instruction at its start; empty when it is nothing else.

    Case and punctuation may differ. A reply that is one part of the instruction keeps its words: for "hot or cold?"
    the answer "cold" is an answer.
    """
    asked, position = words(instruction), 0
    if not asked:
        return reply.strip()
    for match in re.finditer(r"\S+", reply):
        here = words(match.group())
        if asked[position : position + len(here)] != here:
            return reply.strip()
        position += len(here)
        if position == len(asked):
            return reply[match.end() :].strip()
    return reply.strip()


def first_paragraph(text: str) -> str:
    """Up to the first blank line."""
    return re.split(r"\n\s*\n", text.strip(), maxsplit=1)[0]


def sentences(text: str, keep_marks: bool = False) -> list[str]:
    """Sentences and lines, in order; initials and common abbreviations do not end one.

    List marks are taken off unless `keep_marks`: "12. That is a dozen." looks like an entry but states a number.
    """
    found: list[str] = []
    joined = ""
    for line in text.split("\n"):
        for piece in _ENDS.split(line if keep_marks else _MARK.sub("", line)):
            joined = f"{joined} {piece}".strip()
            if joined and not _ABBREVIATION.search(joined):
                found.append(joined)
                joined = ""
        if joined:
            found.append(joined)
            joined = ""
    return [sentence for sentence in found if words(sentence)]


def lead(text: str, num_sentences: int = 1, keep_marks: bool = False) -> list[str]:
    """The first sentences that assert something: openers ("Sure!"), headings ("Answer:") and questions are passed over.

    A heading on the same line as its answer ("Answer: Paris") stays, as the answer does.
    """
    asserting = [
        sentence
        for sentence in sentences(text, keep_marks)
        if fold(sentence) not in _OPENERS and not sentence.rstrip().endswith(("?", ":"))
    ]
    return asserting[:num_sentences]


def conclusion(text: str) -> str:
    """What follows the last "the answer is" (result, total, sum, solution) of the first paragraph, or nothing."""
    paragraph = first_paragraph(text)
    matches = list(_CONCLUSION.finditer(paragraph))
    return re.split(r"[.!]\s|\n", paragraph[matches[-1].end() :], maxsplit=1)[0] if matches else ""


def find(phrase: str, tokens: Sequence[str]) -> int:
    """Where the folded words of `phrase` stand in `tokens`, -1 if nowhere. The last word may carry a plural ending.

    A `*` at the end of the phrase lets its last word go on: `evaporat*` finds "evaporation".
    """
    wanted = words(phrase)
    if not wanted:
        return -1
    open_ended = phrase.rstrip().endswith("*")
    for start in range(len(tokens) - len(wanted) + 1):
        window = tokens[start : start + len(wanted)]
        if list(window[:-1]) == wanted[:-1] and _same_word(wanted[-1], window[-1], open_ended):
            return start
    return -1


def mentions(phrases: Iterable[str], text: str) -> bool:
    """Whether any of the phrases occurs in the text as whole words."""
    tokens = words(text)
    return any(find(phrase, tokens) >= 0 for phrase in phrases)


def marked_lines(text: str) -> list[str]:
    """The entries of the first bulleted or numbered list, marks removed; also of one numbered within a line."""
    entries: list[str] = []
    for line in text.split("\n"):
        if _MARK.match(line):
            entries.append(_MARK.sub("", line).strip())
        elif entries and line.strip():
            break
    if len(entries) >= 2:
        inline = [part for entry in entries for part in _INLINE_NUMBER.split(entry)]
        return [part.strip(" ,;") for part in inline if words(part)]
    parts = [part.strip(" ,;") for part in _INLINE_NUMBER.split(first_paragraph(text))]
    numbered = len(_INLINE_NUMBER.findall(first_paragraph(text)))
    return [part for part in parts[-numbered:] if words(part)] if numbered >= 2 else entries


def bare_lines(text: str, max_words: int = 3) -> list[str]:
    """The leading lines of at most `max_words` words, one candidate each; blank lines are passed over."""
    found = []
    for line in text.split("\n"):
        if not words(line):
            continue
        if len(words(line)) > max_words:
            break
        found.append(line.strip())
    return found


def listed(text: str) -> list[str]:
    """The entries of a list however it is written: marks, one per line, or separated by commas, "and", "or".

    A comma list is read from the first sentence that holds one; what stands before its colon or its
    "are / is / include / includes" is no entry.
    """
    if marked := marked_lines(text):
        return marked
    lines = [line.strip() for line in first_paragraph(text).split("\n") if words(line)]
    if len(lines) >= 2 and lines[0].endswith(":"):
        lines = lines[1:]
    if len(lines) >= 2 and not any(line.count(",") >= 2 for line in lines):
        return [line.rstrip(" ,;.") for line in lines]
    for sentence in sentences(text):
        if entries := _comma_list(sentence):
            return entries
    return [line.rstrip(" ,;.") for line in lines]


def enumerated(answers: Sequence[str], sentence: str) -> list[str]:
    """The candidates among which the sentence merely lists the answer; empty when it stands alone.

    That is: two or more neighbours of at most three words in a comma list, or one that is joined by "or".
    """
    text = _masked(sentence, answers)
    parts = [part.strip(" .!") for part in _SEPARATOR.split(text)]
    place = next((i for i, part in enumerate(parts) if _MASK in part), -1)
    if place < 0:
        return []
    bare = [0 < len(words(part)) <= 3 and _MASK not in part for part in parts]
    after, before = _true_run(bare[place + 1 :]), _true_run(bare[:place][::-1])
    either = re.search(rf"{_MASK},?\s+or\s+(?:\w+\s*){{1,3}}(?:[.!?,]|$)|\bor\s+(?:\w+\s+)?{_MASK}", text)
    if after + before >= 2 or (either and _MASK not in either.group().replace(_MASK, "", 1)):
        return parts[max(0, place - before) : place + after + 1]
    return []


def numbers_in(text: str) -> list[float]:
    """Numbers in order: digits with signs, thousands commas, decimals, a leading $; and words up to ninety-nine."""
    found: list[float] = []
    for match in _NUMBER.finditer(text):
        value = _number(match.group())
        if value is not None:
            found.append(value)
    return found


def _number(token: str) -> float | None:
    if token[-1].isdigit():
        return float(token.replace(",", "").replace("$", "").replace("\u2212", "-"))
    first, _, second = token.lower().partition("-")
    if not second:
        value = _UNITS.get(first, _TENS.get(first))
        return None if value is None else float(value)
    if first in _TENS and 0 < _UNITS.get(second, 0) < 10:
        return float(_TENS[first] + _UNITS[second])
    return None


def _same_word(wanted: str, found: str, open_ended: bool) -> bool:
    if open_ended:
        return found.startswith(wanted)
    return found in (wanted, f"{wanted}s", f"{wanted}es") if wanted.isalpha() else found == wanted


def _comma_list(sentence: str) -> list[str]:
    body = re.split(r":\s|\b(?:are|is|includes?|including|such as|like)\b\s*", sentence)
    text = body[-1] if len(body) > 1 and re.search(r",|\band\b|\bor\b", body[-1]) else sentence
    entries = [part.strip(" .!;") for part in re.split(r"\s*[,;]\s*(?:and\s+|or\s+)?|\s+(?:and|or)\s+", text)]
    entries = [entry for entry in entries if words(entry)]
    return entries if len(entries) >= 2 else []


def _masked(sentence: str, answers: Sequence[str]) -> str:
    """The sentence with every accepted answer replaced by one mark: commas inside an answer separate nothing."""
    text = sentence
    for answer in sorted(answers, key=len, reverse=True):
        loose = r"[\s,;\-]+".join(re.escape(word) for word in re.findall(r"[^\s,;\-*]+", answer))
        ending = r"\w*" if answer.endswith("*") else r"(?:e?s)?\b"
        text = re.sub(rf"(?<!\w){loose}{ending}", _MASK, text, flags=re.I)
    return text


def _true_run(flags: Sequence[bool]) -> int:
    """How many are true from the start."""
    return next((i for i, flag in enumerate(flags) if not flag), len(flags))
