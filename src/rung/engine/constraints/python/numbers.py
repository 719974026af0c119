"""Number literals, letter by letter: a table of states.

Left out are forms that warn or that differ between versions: zeros in front, a name or keyword right after a number.
A whole number has at most `MOST_DIGITS` digits (CPython refuses to read one of more than 4,300).
"""

from __future__ import annotations

__all__ = ["MOST_DIGITS", "NUMBER_REST", "number_after"]

MOST_DIGITS = 80
_DIGITS = "0123456789"

# state: (letters, next state); the first that holds the letter counts
_NEXT: dict[str, tuple[tuple[str, str], ...]] = {
    "zero": ((".", "point"), ("xX", "hex_"), ("oO", "octal_"), ("bB", "binary_"), ("eE", "exponent"), ("jJ", "end")),
    "whole": ((_DIGITS, "whole"), ("_", "whole_"), (".", "point"), ("eE", "exponent"), ("jJ", "end")),
    "whole_": ((_DIGITS, "whole"),),
    "point": ((_DIGITS, "fraction"), ("eE", "exponent"), ("jJ", "end")),
    "fraction": ((_DIGITS, "fraction"), ("_", "fraction_"), ("eE", "exponent"), ("jJ", "end")),
    "fraction_": ((_DIGITS, "fraction"),),
    "exponent": ((_DIGITS, "power"), ("+-", "signed")),
    "signed": ((_DIGITS, "power"),),
    "power": ((_DIGITS, "power"), ("jJ", "end")),
    "hex_": ((_DIGITS + "abcdefABCDEF", "hex"),),
    "hex": ((_DIGITS + "abcdefABCDEF", "hex"), ("_", "hex_")),
    "octal_": (("01234567", "octal"),),
    "octal": (("01234567", "octal"), ("_", "octal_")),
    "binary_": (("01", "binary"),),
    "binary": (("01", "binary"), ("_", "binary_")),
    "end": (),
}
# letters that a state still needs before the number may end
NUMBER_REST = {state: int(state.endswith("_") or state in ("exponent", "signed")) for state in _NEXT}


def number_after(state: str, letter: str) -> str | None:
    """The state after one more letter; None if the number does not go on with it."""
    return next((after for letters, after in _NEXT[state] if letter in letters), None)
