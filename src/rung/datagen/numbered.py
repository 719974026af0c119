"""Numbered lists: the prompt that stops at a bare number, and the parser of what the model wrote after it."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from rung.base.fingerprint import content_hash
from rung.datagen.wording import fold, predict_type
from rung.records.contracts import Completion, Request
from rung.records.types import Drop, Instruction, record_id

__all__ = ["Call", "GeneratedInstructions", "collect", "list_prompt", "list_stop", "parse_list"]

_NUMBERED = re.compile(r"\s*(?:\d{1,3})[.)]\s*(.*)\Z")
_META = re.compile(
    r"^(?:here (?:are|is|\d+)|(?:some|more|other|additional) (?:more |other )?"
    r"(?:examples|instructions|questions|tasks)|"
    r"(?:the )?(?:following|next|above|previous) (?:instructions?|examples?|questions?|tasks?)|instructions?:|note:|"
    r"examples?:|continue|and so on|etc\b|please (?:note|continue))",
    re.IGNORECASE,
)


@dataclass(frozen=True, slots=True)
class Call:
    """One prompt to be continued: the type it asks for, the instructions shown, the request really sent."""

    type: str
    shown: tuple[str, ...]
    request: Request


@dataclass(frozen=True, slots=True)
class GeneratedInstructions:
    """What a generator of instructions made: instructions, dropped lines with reasons, and the calls that made them."""

    instructions: tuple[Instruction, ...]
    dropped: tuple[Drop, ...]
    calls: tuple[Call, ...]
    num_generated_tokens: int


def list_prompt(shown: Sequence[str], opening: str = "") -> str:
    """The opening sentence, when there is one, the shown instructions numbered from 1, then the next bare number."""
    head = f"{opening}\n\n" if opening else ""
    items = "".join(f"{number}. {text}\n" for number, text in enumerate(shown, 1))
    return f"{head}{items}{len(shown) + 1}."


def list_stop(num_shown: int, num_taken: int) -> tuple[str, ...]:
    """The stop string that ends a call after `num_taken` items: the next item's number on a new line."""
    return (f"\n{num_shown + num_taken + 1}.",)


def parse_list(text: str, shown: Iterable[str], cut: bool) -> tuple[list[str], list[tuple[str, str, tuple[int, int]]]]:
    """Split a continuation into instructions, and (reason, line, span) of what was left out.

    The first line continues the bare number; every other needs its own. Reasons: "empty_line", "meta_line",
    "not_an_item", "repeats_example", "repeats_itself", and with `cut` (the token limit ended it) "half_finished" for
    the last line.
    """
    examples, seen = {fold(example) for example in shown}, set[str]()
    good: list[str] = []
    bad: list[tuple[str, str, tuple[int, int]]] = []
    lines, start = text.split("\n"), 0
    for number, line in enumerate(lines):
        span, last = (start, start + len(line)), number == len(lines) - 1
        start += len(line) + 1
        numbered = _NUMBERED.match(line)
        item = (numbered.group(1) if numbered else line).strip()
        reason = _reason(item, is_item=number == 0 or numbered is not None)
        folded = fold(item)
        if not reason and cut and last:
            reason = "half_finished"
        if not reason and folded in examples:
            reason = "repeats_example"
        if not reason and folded in seen:
            reason = "repeats_itself"
        if reason:
            bad.append((reason, line, span))
        else:
            seen.add(folded)
            good.append(item)
    return good, bad


def _reason(item: str, is_item: bool) -> str:
    if not fold(item):
        return "empty_line"
    if _META.match(item):
        return "meta_line"
    return "" if is_item else "not_an_item"


def collect(
    part: str, calls: Sequence[Call], completions: Sequence[Completion], limit_per_call: int
) -> GeneratedInstructions:
    """Parse every completion; instructions beyond `limit_per_call` are dropped as "over_limit"."""
    instructions: list[Instruction] = []
    dropped: list[Drop] = []
    for call, completion in zip(calls, completions, strict=True):
        prompt_hash, seed = content_hash(call.request.text.encode()), call.request.seed
        good, bad = parse_list(completion.text, call.shown, completion.hit_limit)
        for number, text in enumerate(good[:limit_per_call]):
            kind = predict_type(text, call.type)
            name = record_id("instruction", prompt_hash, seed, number, text)
            instructions.append(Instruction(name, text, kind, prompt_hash, seed))
        bad += [("over_limit", text, (0, 0)) for text in good[limit_per_call:]]
        for number, (reason, line, span) in enumerate(bad):
            name = record_id("line", prompt_hash, seed, number, line)
            dropped.append(Drop(name, line, part, reason, span, {"prompt_hash": prompt_hash, "seed": seed}))
    num_tokens = sum(len(completion.token_ids) for completion in completions)
    return GeneratedInstructions(tuple(instructions), tuple(dropped), tuple(calls), num_tokens)
