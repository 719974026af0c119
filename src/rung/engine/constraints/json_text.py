"""JSON's own rules in GBNF, stricter than the standard where texts could grow without end or not load again.

No white space but one blank after `,` and `:`; numbers of at most fifteen digits before and after the point and two in
the exponent, so that none loads as infinite; surrogates escaped only as a pair.
"""

from __future__ import annotations

__all__ = ["INTEGER", "JSON_RULES", "MOST_DIGITS", "literal"]

MOST_DIGITS = 15
INTEGER = f'"-"? ("0" | [1-9] [0-9]{{0,{MOST_DIGITS - 1}}})'
JSON_RULES = rf"""
hex ::= [0-9a-fA-F]
escape ::= ["\\/bfnrt] | "u" ([0-9abcefABCEF] hex hex hex | [dD] [0-7] hex hex | pair)
pair ::= [dD] [89abAB] hex hex "\\u" [dD] [cdefCDEF] hex hex
char ::= [^"\\\x00-\x1f\x7f] | "\\" escape
string ::= "\"" char* "\""
integer ::= {INTEGER}
number ::= integer ("." [0-9]{{1,{MOST_DIGITS}}})? ([eE] [-+]? [0-9]{{1,2}})?
boolean ::= "true" | "false"
null ::= "null"
value ::= object | array | string | number | boolean | null
object ::= "{{" (member (", " member)*)? "}}"
member ::= string ": " value
array ::= "[" (value (", " value)*)? "]"
"""


def literal(text: str) -> str:
    """A text as a literal of the notation."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"')
    return '"' + "".join(c if c >= " " else f"\\x{ord(c):02x}" for c in escaped) + '"'
