"""Let a model answer a held-out suite under one condition, and score every answer with the item's own checks.

Conditions differ in the prompt alone; sampling (greedy), stop strings, limits and scoring are the same, so that format
and training effects can be told apart (spec item 156).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from rung.base.seeds import derive
from rung.pipeline.stage import Context, Outputs
from rung.records.chat.frame import Frame
from rung.records.contracts import Completer, Completion, Request, Sampling
from rung.records.types import Answer, TestItem, record_id
from rung.scoring.checks import run_checks
from rung.scoring.validation import labelled_answers, reliability, validate_scorers

__all__ = ["CONDITIONS", "Asking", "answer_items", "answer_shards", "reference_answers", "scorer_figures"]


@dataclass(frozen=True, slots=True)
class Asking:
    """How a suite is asked: limit and shard size, the output written to, and the stage's context."""

    context: Context
    output: str
    max_new_tokens: int
    shard_size: int


CONDITIONS: Mapping[str, Callable[[str], str]] = {
    "raw": lambda instruction: instruction + "\n",
    "framed": Frame.prompt,
    "tuned": Frame.prompt,
}


def answer_items(
    completer: Completer, items: Sequence[TestItem], condition: str, max_new_tokens: int, seed: int
) -> list[Answer]:
    """Greedy answers of `completer` to `items` with their scores, in order."""
    prompt_of = CONDITIONS[condition.split(":")[0]]
    sampling = Sampling(temperature=0.0, max_new_tokens=max_new_tokens, stop=Frame.stop_strings)
    requests = [
        Request(id=item.id, sampling=sampling, seed=derive(seed, item.id), text=prompt_of(item.instruction))
        for item in items
    ]
    completions = completer.complete(requests)
    return [_scored(item, condition, r.text, c) for item, r, c in zip(items, requests, completions, strict=True)]


def answer_shards(
    completer: Completer, items: Sequence[TestItem], condition: str, outputs: Outputs, asked: Asking
) -> None:
    """`answer_items` in shards, written to `asked.output`; finished shards are kept."""
    done = set(outputs.finished(asked.output))
    for index, start in enumerate(range(0, len(items), asked.shard_size)):
        if index not in done:
            chunk = items[start : start + asked.shard_size]
            answers = answer_items(completer, chunk, condition, asked.max_new_tokens, asked.context.seed)
            outputs.shard(asked.output, index, answers)
            asked.context.budget.spend(tokens=sum(completer.count_tokens([answer.text for answer in answers])))
            asked.context.events.progress(f"answers ({condition})", min(start + len(chunk), len(items)), len(items))


def reference_answers(items: Sequence[TestItem]) -> list[Answer]:
    """Every item answered by its own reference: what is possible under these scorers."""
    return [
        _scored(item, "reference", "", Completion(item.id, item.reference, item.reference, (), "eos", 0))
        for item in items
    ]


def _scored(item: TestItem, condition: str, prompt: str, completion: Completion) -> Answer:
    text = completion.text.strip()
    checked = run_checks(item, text)
    return Answer(
        id=record_id(item.id, condition, text),
        item_id=item.id,
        condition=condition,
        type=item.type,
        prompt=prompt,
        text=text,
        finish_reason=completion.finish_reason,
        passed=checked.passed,
        abstained=checked.abstained,
        verdicts=checked.verdicts,
    )


def scorer_figures(answers: Sequence[Answer]) -> dict[str, Any]:
    """How well the verifiers that decided these answers agree with hand-labelled ones (spec item 155)."""
    agreement = validate_scorers(labelled_answers())
    used = sorted({name for answer in answers for name in answer.verdicts})
    found = reliability(agreement, used)
    return {
        "kappa": agreement.kappa,
        "kappa_low": agreement.kappa_low,
        "kappa_high": agreement.kappa_high,
        "num_answers": agreement.num_answers,
        "reliable": found.reliable,
        "reasons": list(found.reasons),
    }
