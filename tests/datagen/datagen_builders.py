"""Records for tests of datagen, built in one line each."""

from __future__ import annotations

from typing import Any

from rung.records.types import Candidate, Critique, Instruction


def critique(good: bool = True, confident: bool = True, margin: float = 2.0, critic: str = "choice") -> Critique:
    signed = margin if good else -margin
    return Critique(critic, good, confident, "A" if good else "B", signed, 0.0, margin, signed, 1.0)


def instruction(number: int, text: str = "", **values: Any) -> Instruction:
    return Instruction(f"i{number}", text or f"What is thing number {number}?", "factual", "hash", number, **values)


def candidate(number: int, response: str = "A small thing.", **values: Any) -> Candidate:
    filled = {
        "id": f"c{number}",
        "instruction_id": f"i{number}",
        "instruction": f"What is thing number {number}?",
        "type": "factual",
        "prompt": f"prompt {number}",
        "seed": number,
        "raw_text": response,
        "generated": response,
        "response": response,
        "finish_reason": "stop",
        "num_raw_tokens": len(response.split()),
        "num_response_tokens": len(response.split()),
        "instruction_critique": critique(),
        "pair_critique": critique(),
        "outcome": "kept",
    }
    return Candidate(**{**filled, **values})


def rejected(number: int, **values: Any) -> Candidate:
    return candidate(number, pair_critique=critique(good=False), outcome="rejected", part="choice", **values)
