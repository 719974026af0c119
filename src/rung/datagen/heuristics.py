"""Rules that look at one instruction or response and say what is wrong with it, and where.

Filters drop by them, quality control counts by them, and `validation` measures each against hand-labelled examples
before it may gate. Each takes a `Subject` and returns the first `Finding`, or None. Length is looked at by one clause
of one rule only (`runaway`), and counted apart there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping

from rung.datagen.findings import Finding, Subject
from rung.datagen.wording import LANGUAGES, UNFINISHED_WORDS, first_word, fold, is_request, jaccard, words
from rung.records.chat.frame import Frame

__all__ = [
    "HEURISTICS",
    "MAX_CHARACTERS",
    "NEW_PROMPT",
    "NEXT_QUESTION",
    "delimiter_leak",
    "echo",
    "garbage",
    "incomplete",
    "repetition",
    "runaway",
    "runaway_pattern",
    "scope",
    "unfit",
]

MAX_CHARACTERS = 500
_LABELS = r"(?:Instruction|Question|Response|Answer|User|Human|Assistant|Q|A)"
NEW_PROMPT = re.compile(rf"(?m)^[ \t]*(?:#+[ \t]*)?(?:{_LABELS}[ \t]*\d*[ \t]*:|###[ \t]*{_LABELS}\b)")
NEXT_QUESTION = re.compile(
    r"(?mi)^[ \t]*(?:(?:here(?:'s| is)|now)[ \t]+)?(?:the[ \t]+|an?)?(?:next|another|new|following)[ \t]+"
    r"(?:question|instruction|prompt|task|exercise)\b[^\n.]{0,20}(?::|$)"
)
_MARK = re.match(r"\W*", Frame.delimiter.strip())
_DELIMITER = re.compile(re.escape(_MARK.group(0) if _MARK and _MARK.group(0) else Frame.delimiter.strip()))

_BARE_MARKER = re.compile(r"(?:^|\n)[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]*$")
_BARE_HYPHEN = re.compile(r"[ \t][-\u2013\u2014][ \t]*$")
_CLOSED = tuple(".!?\u2026\"'\u201d\u2019)]}`*\u3002\uff01\uff1f")
_LIST_LINE = re.compile(r"[ \t]*(?:[-*•]|\d{1,3}[.)])[ \t]+\S")
_FRAGMENT_OPENERS = frozenset(["and", "or", "of", "to", "because", "which", "that", "with", "for", "from"])

_MARKUP = re.compile(r"</?[a-zA-Z][^<>\n]{0,80}>|&(?:nbsp|amp|lt|gt|quot);|\\(?:begin|frac|xa0)|<unused\d+>")
_ADDRESS = re.compile(r"https?://|www\.\w|\b[\w.+-]+@[\w-]+\.\w{2,}")
_CODE_WORDS = re.compile(
    r"\b(?:code|html|css|javascript|python|sql|xml|tag|markup|url|link|email|website|latex)\b", re.I
)

_MISSING_INPUT = re.compile(
    r"\b(?:the )?(?:following|given|provided|attached|above|below)\b(?=.*\b(?:text|sentences?|paragraphs?|passages?|"
    r"articles?|words?|numbers?|lists?|story|poem|data|table|image|picture|code|questions?|statements?|quotes?|equations?)\b)"
    r"|\b(?:text|sentences?|paragraph|passage|article|table|image|story|list|question|quote)s? (?:below|above)\b"
    r"|\b(?:in|of|from|about|correct|rewrite|translate|summari[sz]e|read|analy[sz]e|describe|classify|edit|shorten) "
    r"(?:this|the|these) (?:text|sentence|sentences|paragraph|passage|article|story|poem|image|picture|photo|table|"
    r"code|video|review|email|letter|conversation|quote)\b(?! of| about| that| with)",
    re.IGNORECASE,
)
_PAYLOAD = re.compile(r":\s*\S+|\"[^\"]+\"|\u201c[^\u201d]+\u201d|'[^']{3,}'|\([^)]{3,}\)")
_BLANK = re.compile(r"_{2,}|\[(?:insert|your|name|topic|x)\b[^\]]*\]|\.{4,}|<[a-z _]+>|\bX{2,}\b", re.IGNORECASE)
_META = re.compile(
    r"^(?:here (?:is|are)|in this (?:exercise|lesson|section|chapter|task|activity)|"
    r"the (?:following|next) (?:instruction|question|task|example)s?|"
    r"(?:question|exercise|task|example|step|instruction|lesson|chapter) \d+|"
    r"these (?:instructions|questions))\b",
    re.IGNORECASE,
)
_ANSWERED = re.compile(
    r"\b(?:answer|response|solution|ans)\s*[:=]\s*\S|\?\s+(?:yes|no|true|false)\b[.,]", re.IGNORECASE
)
_OUTSIDE = re.compile(
    r"\b(?:this|the) (?:image|picture|photo|video|website|web page|chapter|textbook|worksheet|diagram|graph|map)\b|"
    r"\b(?:our|your) (?:class|teacher|textbook|group|partner|classmates|notebook)\b|\bclick\b|\bpage \d+",
    re.IGNORECASE,
)


def _at(rule: str, match: re.Match[str]) -> Finding:
    return Finding(rule, match.span())


def runaway_pattern(text: str) -> Finding | None:
    """A line that opens a new prompt, or announces the next question, in `text`; a leading label counts as well."""
    if found := NEW_PROMPT.search(text):
        return _at("new_prompt", found)
    if found := NEXT_QUESTION.search(text):
        return _at("next_question", found)
    return None


def runaway(subject: Subject, max_characters: int = MAX_CHARACTERS) -> Finding | None:
    """A new-prompt pattern, or else more than `max_characters` characters (rule "too_long")."""
    text = subject.text
    if found := runaway_pattern(text):
        return found
    return Finding("too_long", (max_characters, len(text))) if len(text) > max_characters else None


def delimiter_leak(text: str) -> Finding | None:
    """The delimiter's opening mark anywhere in a cleaned text: whole or partial, it must not be there."""
    found = _DELIMITER.search(text)
    return _at("delimiter", found) if found else None


def incomplete(subject: Subject) -> Finding | None:
    """An answer that starts well and stops: what a critic of the opening cannot see.

    Short answers ("Yes.", "Paris", "red, green") are complete; prose of eight words or more must end in punctuation.
    """
    text = subject.text.rstrip()
    end = len(text)
    if not re.search(r"\w", text):
        return Finding("no_words", (0, end))
    if text.endswith((":", "\uff1a")):
        return Finding("ends_in_colon", (end - 1, end))
    if text.count("```") % 2:
        return Finding("open_code_fence", (text.rfind("```"), end))
    if found := _BARE_MARKER.search(text):
        return _at("bare_list_marker", found)
    if found := _BARE_HYPHEN.search(text):
        return _at("bare_hyphen", found)
    return _unfinished_wording(text, subject.finish_reason)


def _unfinished_wording(text: str, finish_reason: str) -> Finding | None:
    end, last_line = len(text), text.rsplit("\n", 1)[-1]
    spoken = words(last_line)
    span = (end - len(last_line), end)
    if text.endswith((",", ";")):
        return Finding("ends_in_comma", (end - 1, end))
    closed = text.endswith(_CLOSED)
    if not closed and len(spoken) > 1 and spoken[-1] in UNFINISHED_WORDS and last_line.split()[-1].islower():
        return Finding("dangling_word", span)
    if not closed and 1 <= len(spoken) <= 3 and first_word(text) in _FRAGMENT_OPENERS and text[:1].islower():
        return Finding("bare_fragment", span)
    if text.count("(") > text.count(")"):
        return Finding("open_bracket", (text.rfind("("), end))
    if closed:
        return None
    if finish_reason == "length":
        return Finding("cut_by_limit", span)
    listed = (
        bool(_LIST_LINE.match(last_line)) or last_line.count(",") * 4 >= len(spoken) or "{" in text or "```" in text
    )
    return Finding("no_final_stop", span) if len(spoken) >= 8 and not listed else None


def repetition(subject: Subject) -> Finding | None:
    """A loop: the same line or sentence twice in a row or three times, a phrase of four words three times, a word or
    character on and on. Instructions that ask for repeats are let through."""
    if re.search(r"\b(?:repeat|times|repeated|copies)\b", subject.instruction, re.IGNORECASE):
        return None
    text = subject.text
    if found := re.search(r"([^\s\d])\1{9,}", text):
        return _at("character_run", found)
    if found := re.search(r"\b(\w+)(?:\W+\1\b){3,}", text, re.IGNORECASE):
        return _at("word_run", found)
    return _repeated_units(text) or _repeated_phrase(text)


def _repeated_units(text: str) -> Finding | None:
    last, seen = "", dict[str, int]()
    for match in re.finditer(r"[^\n.!?]+[.!?]*", text):
        unit = re.sub(r"^\d+\s+", "", fold(match.group()))
        if not unit:
            continue
        seen[unit] = seen.get(unit, 0) + 1
        long_enough = len(unit.split()) >= 3
        if (unit == last and long_enough) or (seen[unit] == 2 and len(unit.split()) >= 5) or seen[unit] >= 3:
            return _at("repeated_unit", match)
        last = unit
    return None


def _repeated_phrase(text: str, length: int = 4, copies: int = 3) -> Finding | None:
    tokens = [(m.group().casefold(), m.span()) for m in re.finditer(r"\w+", text)]
    counts: dict[tuple[str, ...], int] = {}
    for start in range(len(tokens) - length + 1):
        phrase = tuple(token for token, _ in tokens[start : start + length])
        counts[phrase] = counts.get(phrase, 0) + 1
        if counts[phrase] >= copies:
            return Finding("repeated_phrase", (tokens[start][1][0], tokens[start + length - 1][1][1]))
    return None


def echo(subject: Subject) -> Finding | None:
    """The response says the instruction again, or copies a few-shot response of its own prompt (four words or more)."""
    asked, said = fold(subject.instruction), fold(subject.text)
    if not said:
        return None
    whole = (0, len(subject.text))
    if said == asked or (said.startswith(asked) and len(asked.split()) >= 3):
        return Finding("repeats_instruction", whole)
    close = jaccard(frozenset(asked.split()), frozenset(said.split())) >= 0.8
    if close and subject.text.rstrip().endswith("?") and subject.instruction.rstrip().endswith("?"):
        return Finding("asks_it_again", whole)
    if len(said.split()) >= 4 and said in _shot_responses(subject):
        return Finding("copies_example", whole)
    return None


def _shot_responses(subject: Subject) -> set[str]:
    label = Frame.blank()
    blocks = subject.prompt.split(Frame.delimiter)[:-1]
    return {fold(block.split(label, 1)[1]) for block in blocks if label in block}


def scope(subject: Subject) -> Finding | None:
    """A bare statement answered with a verdict: an evaluation task, for a later stage."""
    if is_request(subject.instruction) or not re.search(r"\w", subject.instruction):
        return None
    if re.search(r"\btrue or false\b|\byes or no\b", subject.instruction, re.IGNORECASE):
        return None
    found = re.match(
        r"\s*(?:the (?:statement|answer) is )?(?:true|false|correct|incorrect|yes|no)\b", subject.text, re.I
    )
    return _at("statement_judged", found) if found else None


def garbage(subject: Subject) -> Finding | None:
    """Text that is no English instruction or answer to one: markup, addresses, broken encoding, another script.

    Markup and addresses are fine where the instruction speaks of code, another script where it names a language.
    """
    text = subject.text
    if "\ufffd" in text:
        return Finding("broken_encoding", (text.index("\ufffd"), text.index("\ufffd") + 1))
    if found := re.search(r"[\x00-\x08\x0b\x0c\x0e-\x1f]", text):
        return _at("control_character", found)
    if not _CODE_WORDS.search(subject.instruction):
        if found := _MARKUP.search(text):
            return _at("markup", found)
        if found := _ADDRESS.search(text):
            return _at("address", found)
    letters = [c for c in text if c.isalpha()]
    foreign = [c for c in letters if not c.isascii()]
    if len(foreign) * 5 > len(letters) and not LANGUAGES & set(words(subject.instruction)):
        return Finding("other_script", (text.index(foreign[0]), len(text)))
    symbols = sum(not (c.isalnum() or c.isspace()) for c in text)
    if len(text) >= 12 and symbols * 5 > len(text) * 2 and "{" not in text:
        return Finding("symbols", (0, len(text)))
    return None


def unfit(subject: Subject, min_words: int = 3, max_words: int = 50) -> Finding | None:
    """An instruction that cannot stand alone: too short or long, unfinished, a statement, its input missing, its answer
    inside, or about something outside the text (an image, a page, our class)."""
    text = subject.instruction.strip()
    count, end = len(words(text)), len(text)
    if count < min_words:
        return Finding("too_short", (0, end))
    if count > max_words:
        return Finding("too_long", (0, end))
    if "\n" in text:
        return Finding("several_lines", (text.index("\n"), end))
    rules = (("meta", _META), ("blank", _BLANK), ("answered", _ANSWERED), ("outside", _OUTSIDE))
    for rule, pattern in rules:
        if found := pattern.search(text):
            return _at(rule, found)
    found = _MISSING_INPUT.search(text)
    if found and not _PAYLOAD.search(text, found.end()):
        return _at("missing_input", found)
    if text.endswith((":", ",", ";", "-", "(")) or text.count("(") > text.count(")") or text.count('"') % 2:
        return Finding("unfinished", (max(0, end - 1), end))
    last = words(text)[-1]
    if not text.endswith(_CLOSED) and last in UNFINISHED_WORDS:
        return Finding("unfinished", (end - len(last), end))
    return None if is_request(text) else Finding("statement", (0, end))


HEURISTICS: Mapping[str, Callable[[Subject], Finding | None]] = {
    "runaway": runaway,
    "incomplete": incomplete,
    "repetition": repetition,
    "echo": echo,
    "scope": scope,
    "garbage": garbage,
    "unfit": unfit,
}
