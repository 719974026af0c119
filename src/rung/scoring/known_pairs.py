"""Known-good instruction-answer pairs, written by hand, that critics are calibrated on. Used for nothing else."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from importlib.resources import files

import yaml

from rung.base.errors import DataError

__all__ = ["KnownPair", "known_pairs", "parse_pairs"]


@dataclass(frozen=True, slots=True)
class KnownPair:
    """An instruction of a type with an answer that is right, whole and natural."""

    instruction: str
    response: str
    type: str


def known_pairs() -> list[KnownPair]:
    """The shipped pairs."""
    name = "calibration_pairs.yaml"
    return parse_pairs(files("rung.scoring").joinpath(name).read_text(encoding="utf-8"), name)


def parse_pairs(text: str, place: str) -> list[KnownPair]:
    """Pairs from YAML: a mapping of instruction type to a list of {instruction, response}.

    Raises:
        DataError: another shape, an empty text, or an instruction that comes twice; names the entry.
    """
    try:
        groups = yaml.safe_load(text)
    except yaml.YAMLError as error:
        raise DataError(f"not YAML: {error}", place=place) from error
    if not isinstance(groups, dict):
        raise DataError("expected a mapping of instruction types to lists of pairs", place=place)
    pairs = [
        _pair(entry, str(kind), f"{place}:{kind}[{number}]")
        for kind, entries in groups.items()
        for number, entry in enumerate(entries if isinstance(entries, list) else [entries])
    ]
    _refuse_repeats(pairs, place)
    return pairs


def _pair(entry: object, kind: str, place: str) -> KnownPair:
    if not isinstance(entry, dict) or set(entry) != {"instruction", "response"}:
        raise DataError(f"expected {{instruction, response}}, got {entry!r:.80}", place=place)
    instruction, response = str(entry["instruction"]).strip(), str(entry["response"]).strip()
    if not instruction or not response:
        raise DataError("the instruction or the response is empty", place=place)
    return KnownPair(instruction, response, kind)


def _refuse_repeats(pairs: Sequence[KnownPair], place: str) -> None:
    seen: set[str] = set()
    for pair in pairs:
        key = pair.instruction.casefold()
        if key in seen:
            raise DataError(f"the instruction {pair.instruction!r} comes twice", place=place)
        seen.add(key)
