"""How replies are read: the shared ground of all verifiers."""

import pytest

from rung.scoring import reading


@pytest.mark.parametrize(
    ("reply", "left"),
    [
        ("Is it hot or cold?", ""),
        ("is it HOT or cold", ""),
        ("Is it hot or cold? Cold.", "Cold."),
        ("Is it hot or\ncold?\nCold", "Cold"),
        ("cold", "cold"),
        ("Is it hot", "Is it hot"),
        ("Is it hot or colder?", "Is it hot or colder?"),
    ],
)
def test_only_a_whole_echo_is_taken_off(reply, left):
    assert reading.without_echo("Is it hot or cold?", reply) == left


@pytest.mark.parametrize(
    ("text", "entries"),
    [
        ("1. Apple\n2. Pear\n\n3. Fig", ["Apple", "Pear", "Fig"]),
        ("Sure:\n* apple\n* pear\nBye", ["apple", "pear"]),
        ("1) apple 2) pear 3) fig", ["apple", "pear", "fig"]),
        ("The fruits are apple, pear, and fig.", ["apple", "pear", "fig"]),
        ("Fruits: apple and pear", ["apple", "pear"]),
        ("apple\npear\nfig", ["apple", "pear", "fig"]),
        ("Here they are:\napple\npear", ["apple", "pear"]),
        ("apple", ["apple"]),
        ("I bought it in 1999. Then I sold it.", ["I bought it in 1999. Then I sold it"]),
    ],
)
def test_lists_are_read_however_they_are_written(text, entries):
    assert reading.listed(text) == entries


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("seven of nine", [7, 9]),
        ("twenty-one and forty", [21, 40]),
        ("-3 and 4.5, 1,200 or $5", [-3, 4.5, 1200, 5]),
        ("3-2", [3, 2]),
        ("H2O and B12", []),
        ("someone often", []),
    ],
)
def test_numbers(text, found):
    assert reading.numbers_in(text) == found


def test_sentences_keep_abbreviations_together_and_lines_apart():
    assert reading.sentences("Dr. A. Bell spoke. It was late!\n- Yes") == ["Dr. A. Bell spoke.", "It was late!", "Yes"]
    assert reading.sentences("12. That is all.", keep_marks=True) == ["12.", "That is all."]


def test_the_lead_passes_over_openers_headings_and_questions():
    assert reading.lead("Sure! What is it?\nHere:\nIt is tea. Or not.") == ["It is tea."]
    assert reading.lead("") == []


def test_phrases_are_whole_words_with_plural_and_open_endings():
    assert reading.mentions(["ice cream"], "Ice-creams!")
    assert not reading.mentions(["ice"], "nice rice")
    assert reading.mentions(["evaporat*"], "evaporation")
    assert not reading.mentions(["12"], "12s")
    assert reading.mentions(["dont"], "don\u2019t")
    assert reading.find("", ["a"]) == -1


def test_a_stated_conclusion_is_found_in_the_first_paragraph_only():
    assert reading.conclusion("First this. So the answer is 12. More.") == "12"
    assert reading.conclusion("No idea.\n\nThe answer is 12.") == ""
