"""Personal data and secrets found in text, and taken out: pure functions, patterns and one checksum.

Kinds: `email`, `phone` (international, or grouped as people write it), `card` (13 to 19 digits that pass ISO/IEC
7812's check digit, Luhn's), `secret` (private keys, keys with a known prefix, bearer tokens, passwords in addresses
and assignments, and any literal secret that the caller names).

Repetition inside the patterns is bounded or possessive, so that no text makes the search slow.

It does not know names, postal addresses, or data that was disguised on purpose ("name at host dot com").
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Literal, get_args

__all__ = ["KINDS", "Finding", "Kind", "find", "luhn", "redact"]

Kind = Literal["email", "phone", "card", "secret"]
KINDS: tuple[Kind, ...] = get_args(Kind)

_EMAIL = re.compile(r"[\w.%+-]{1,64}@[\w-]{1,63}(?:\.[\w-]{1,63}){1,8}")
_CARD = re.compile(r"(?<![\w.])[2-6](?:[ -]?\d){12,18}(?!\w)")
_PHONES = (
    re.compile(r"(?<!\w)(?:\+|00)[1-9]\d{0,2}+(?:[ ./-]?+\(?+\d{1,5}+\)?+){2,6}+(?!\w)"),
    re.compile(r"(?<![\w.])(?:1[ .-])?(?:\(\d{3}\) ?|\d{3}[ .-])\d{3}[ .-]\d{4}(?!\w)"),
    re.compile(r"(?<![\w.])\(?0\d{1,4}\)?[ /-]\d{3,4}[ -]?\d{3,5}(?!\w)"),
)
_PREFIXES = (
    r"sk-[\w-]{16,}|[sr]k_(?:live|test)_\w{16,}|gh[opsur]_\w{20,}|github_pat_\w{20,}|glpat-[\w-]{16,}|"
    r"xox[abeprs]-[\w-]{10,}|(?:AKIA|ASIA)[0-9A-Z]{16}|AIza[\w-]{30,}|hf_[A-Za-z0-9]{20,}|npm_\w{30,}|"
    r"pypi-[\w-]{30,}|ya29\.[\w-]{20,}|eyJ[\w-]{8,4096}+\.[\w-]{8,4096}+\.[\w-]{8,}"
)
_NAMES = r"(?:api|access|secret|private|auth)[_-]?(?:key|token)|secret|password|passwd|credential"
_SECRETS = (
    re.compile(r"-----BEGIN [A-Z ]{0,40}PRIVATE KEY-----.*?(?:-----END [A-Z ]{0,40}PRIVATE KEY-----|\Z)", re.DOTALL),
    re.compile(rf"(?<!\w)(?:{_PREFIXES})"),
    re.compile(r"(?i)\bbearer\s{1,4}(?P<value>[\w.~+/=-]{12,})"),
    re.compile(r"(?i)\bauthorization\s{0,4}:\s{0,4}basic\s{1,4}(?P<value>[\w+/=-]{8,})"),
    re.compile(r"(?<=://)[^\s/:@]{1,64}:[^\s/@]{1,128}(?=@)"),
    re.compile(
        rf"(?i)(?:{_NAMES})[\"']?\s{{0,4}}[:=]\s{{0,4}}[\"']?(?P<value>(?=[^\s\"'(),;]{{0,256}}\d)[^\s\"'(),;]{{8,}})"
    ),
)


@dataclass(frozen=True, slots=True, order=True)
class Finding:
    """Where something was found; never what, so that a finding can be logged."""

    start: int
    end: int
    kind: Kind


def find(text: str, kinds: Sequence[Kind] = KINDS, secrets: Sequence[str] = ()) -> list[Finding]:
    """What `text` holds of `kinds`, in order and without overlap; `secrets` are literal strings that count as such."""
    found: list[Finding] = []
    covered = bytearray(len(text))
    for kind in ("secret", "email", "card", "phone"):
        if kind in kinds:
            spans = list(_FINDERS[kind](text)) + (list(_literals(text, secrets)) if kind == "secret" else [])
            found += [Finding(*span, kind) for span in _apart(spans, covered)]
    return sorted(found)


def redact(text: str, kinds: Sequence[Kind] = KINDS, secrets: Sequence[str] = ()) -> tuple[str, list[Finding]]:
    """`text` with each finding replaced by its kind in brackets, and the findings (places in the old text)."""
    found = find(text, kinds, secrets)
    pieces, at = [], 0
    for finding in found:
        pieces += [text[at : finding.start], f"[{finding.kind}]"]
        at = finding.end
    return "".join([*pieces, text[at:]]), found


def luhn(digits: str) -> bool:
    """Whether the last digit is the check digit of those before it (ISO/IEC 7812-1, annex B)."""
    total = 0
    for place, character in enumerate(reversed(digits)):
        value = int(character) * (1 + place % 2)
        total += value - 9 if value > 9 else value
    return total % 10 == 0


def _emails(text: str) -> Iterator[tuple[int, int]]:
    yield from (match.span() for match in _EMAIL.finditer(text))


def _cards(text: str) -> Iterator[tuple[int, int]]:
    for match in _CARD.finditer(text):
        digits = re.sub(r"\D", "", match.group())
        if luhn(digits) and len(set(digits)) > 1:
            yield match.span()


def _phones(text: str) -> Iterator[tuple[int, int]]:
    for pattern in _PHONES:
        for match in pattern.finditer(text):
            digits = re.sub(r"\D", "", match.group())
            if 8 <= len(digits) <= 17 and len(set(digits)) > 1:
                yield match.span()


def _secrets(text: str) -> Iterator[tuple[int, int]]:
    for pattern in _SECRETS:
        for match in pattern.finditer(text):
            yield match.span("value") if "value" in pattern.groupindex else match.span()


def _literals(text: str, secrets: Sequence[str]) -> Iterator[tuple[int, int]]:
    for secret in filter(None, secrets):
        yield from (match.span() for match in re.finditer(re.escape(secret), text))


def _apart(spans: list[tuple[int, int]], covered: bytearray) -> list[tuple[int, int]]:
    """The spans that touch nothing covered, overlapping ones joined; they are covered from now on."""
    joined: list[tuple[int, int]] = []
    for start, end in sorted(span for span in spans if not any(covered[slice(*span)])):
        if joined and start < joined[-1][1]:
            joined[-1] = (joined[-1][0], max(end, joined[-1][1]))
        else:
            joined.append((start, end))
    for start, end in joined:
        covered[start:end] = b"\x01" * (end - start)
    return joined


_FINDERS: dict[Kind, Callable[[str], Iterator[tuple[int, int]]]] = {
    "secret": _secrets,
    "email": _emails,
    "card": _cards,
    "phone": _phones,
}
