"""Personal data and secrets: what is found, what is left alone, and that nothing of it remains."""

from __future__ import annotations

import itertools

import pytest

from rung.engine.redact import KINDS, Finding, find, luhn, redact

PLANTED = {
    "email": ["ada.lovelace@example.org", "Ada <a+b@mail.example.co.uk>", "größe@exämple.de"],
    "phone": [
        "+49 30 1234567",
        "+1 (555) 010-9999",
        "0044 20 7946 0958",
        "555-010-9999",
        "(555) 010 9999",
        "020 7946 0958",
    ],
    "card": ["4111 1111 1111 1111", "4111-1111-1111-1111", "5500005555555559", "378282246310005"],
    "secret": [
        "sk-proj-abcDEF0123456789xyz",
        "AKIAIOSFODNN7EXAMPLE",
        "ghp_0123456789abcdefghij0123",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIEow\nIBAAK\n-----END RSA PRIVATE KEY-----",
        "-----BEGIN OPENSSH PRIVATE KEY-----\nb3BlbnNzaC1rZXk cut off here",
        "Authorization: Bearer abcdef.123456-XYZ",
        "password = hunter2hunter2",
        'api_key: "9f8e7d6c5b4a3f2e1d0c"',
        "postgres://root:hunter2@db.internal/x",
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.dozjgNryP4J3jVmNHl0w5N",
    ],
}

INNOCENT = [
    "The year 2024-01-02 and 10:45:30, or 01.02.2024.",
    "pi is 3.14159265358979 and e is 2.718281828459045",
    "192.168.100.200 and 10.0.0.1",
    "Add 12345 + 67890 - 555, then 1 000 000 / 8.",
    "4111 1111 1111 1112 has a wrong check digit",
    "token = tokenizer.next_token(); password = get_password()",
    "the secret of the bearer of news is a key",
    "@decorator and a @ b, x@y",
    "def f(sk): return sk - 1  # sk-learn",
    "0000 0000 0000 0000",
    "https://example.org/a:b@c",
]


@pytest.mark.parametrize(("kind", "planted"), [(kind, text) for kind in PLANTED for text in PLANTED[kind]])
def test_planted_data_is_found_and_gone(kind: str, planted: str) -> None:
    text = f"Write to {planted}, please."
    clean, found = redact(text)
    assert kind in [finding.kind for finding in found]
    assert f"[{kind}]" in clean
    core = max(planted.replace("\n", " ").split(), key=len).strip('"<>')
    assert core.split("//")[-1].split("@db")[0] not in clean
    assert clean.startswith("Write to ")
    assert find(clean) == []


@pytest.mark.parametrize("text", INNOCENT)
def test_numbers_and_code_are_left_alone(text: str) -> None:
    assert redact(text) == (text, [])


def test_kinds_are_chosen_and_literal_secrets_count() -> None:
    text = "a@example.org 555-010-9999 plain-as-day"
    assert redact(text, ["phone"])[0] == "a@example.org [phone] plain-as-day"
    assert redact(text, ["secret"], ["plain-as-day"])[0] == "a@example.org 555-010-9999 [secret]"
    assert redact(text, [], ["plain-as-day"])[0] == text


def test_findings_do_not_overlap_and_say_where() -> None:
    text = "x sk-ada@example.org0123456789abcd 4111111111111111 y"
    found = find(text)
    assert all(a.end <= b.start for a, b in itertools.pairwise(found))
    assert text[found[-1].start : found[-1].end] == "4111111111111111"


def test_what_is_part_of_a_secret_is_not_found_again() -> None:
    assert redact("password=ada.1@example.org, right") == ("password=[secret], right", [Finding(9, 26, "secret")])


def test_the_check_digit_catches_every_single_wrong_digit() -> None:
    right = "4539148803436467"
    assert luhn(right)
    for place in range(len(right)):
        for digit in set("0123456789") - {right[place]}:
            assert not luhn(right[:place] + digit + right[place + 1 :])


@pytest.mark.parametrize(
    "piece",
    [
        "1",
        "+1111111111111111111111111111111111 ",
        "+1 ",
        "a.",
        "a@a",
        "eyJaaaaaaaaaa-",
        "(0",
        "-----BEGIN PRIVATE KEY",
        "password=a",
        "://a:",
        "bearer ",
        "4 ",
    ],
)
def test_hostile_text_of_a_hundred_thousand_characters_is_searched_at_once(piece: str) -> None:
    """Nested repetition in a pattern would take minutes to hours here."""
    text = (piece * 100_000)[:100_000]
    cleaned, findings = redact(text, KINDS)
    untouched = len(text) - sum(finding.end - finding.start for finding in findings)
    assert len(cleaned) == untouched + sum(len(f"[{finding.kind}]") for finding in findings)
