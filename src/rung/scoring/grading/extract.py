"""The code in a reply: strict rules, so that one reply is one solution.

1. The fenced block (labelled Python or not at all) that defines the function; a block left open at the end is one too.
   Other blocks (examples, output) are left out.
2. Without any fence: from the first line that is code at the left margin to the last one, if the function is defined
   there. Sentences before and after are left out, and so is everything after the first sentence that follows.

A reply that defines the function several times, differently, gives no solution: listing all options earns nothing.
Nothing is completed, renamed or repaired.
"""

from __future__ import annotations

import re

__all__ = ["code_in"]

_FENCE = re.compile(r"^[ \t]*(?:```|~~~)[ \t]*(\w*)[^\n]*\n(.*?)(?:^[ \t]*(?:```|~~~)[ \t]*$|\Z)", re.S | re.M)
_ANY_FENCE = re.compile(r"^[ \t]*(?:```|~~~)", re.M)
_LABELS = {"", "py", "python", "python3"}
_START = re.compile(r"(?:def|class|import|from|async def)\s|@|#|[A-Za-z_]\w*\s*(?::[^=\n]+)?=[^=]")
_GOES_ON = re.compile(
    r"[\s#@)\]}]|(?:def|class|import|from|async|if|elif|else|for|while|try|except|finally|with|assert|del|global)\b.*"
    r"|(?:[A-Za-z_][\w.]*)\s*(?:\[.*\]\s*)?(?:\(.*|[-+*/%&|^]?=.*|:.*=.*)|\"\"\"|'''"
)
_MOST_CHARACTERS = 100_000


def code_in(reply: str, entry_point: str) -> str:
    """The code that defines `entry_point`, or nothing."""
    if len(reply) > _MOST_CHARACTERS:
        return ""
    name = re.escape(entry_point)
    defines = re.compile(rf"^(?:async\s+def|def|class)\s+{name}\b|^{name}\s*=", re.M)
    if _ANY_FENCE.search(reply):
        blocks = [_unindented(text) for label, text in _FENCE.findall(reply) if label.casefold() in _LABELS]
        defining = [text for text in blocks if defines.search(text)]
        return defining[0] if len({text.strip() for text in defining}) == 1 and _once(defines, defining[0]) else ""
    code = _bare(reply)
    return code if _once(defines, code) else ""


def _once(defines: re.Pattern[str], code: str) -> bool:
    return len(defines.findall(code)) == 1


def _unindented(text: str) -> str:
    """A block that stands in a list is moved as a whole to where its first line begins."""
    lines = text.split("\n")
    first = next((line for line in lines if line.strip()), "")
    margin = first[: len(first) - len(first.lstrip())]
    return "\n".join(line.removeprefix(margin) for line in lines) if margin else text


def _bare(reply: str) -> str:
    lines = reply.split("\n")
    start = next((place for place, line in enumerate(lines) if _START.match(line)), None)
    if start is None:
        return ""
    kept: list[str] = []
    quoted = False
    for line in lines[start:]:
        if line.strip() and not quoted and not _GOES_ON.match(line):
            break
        quoted ^= (line.count('"""') + line.count("'''")) % 2 == 1
        kept.append(line)
    return "\n".join(kept)
