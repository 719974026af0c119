"""Held-out items before, while and after a policy is trained: the same items, the same seeds, the same judgement.

Where a trained model judges, an answer passes from a value on, and the gain that counts is that of the values. What
each attribute of such models gives to the answers before and after is kept beside the judgement.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, Literal

from rung.base.fingerprint import plain
from rung.base.seeds import derive
from rung.base.settings import Field, Settings
from rung.evaluate.statistics import mcnemar_of, paired_bootstrap, wilson
from rung.pipeline.stage import Verdict
from rung.pipeline.stages._model import room
from rung.records.contracts import Item, Score, Scorer, Trace
from rung.records.types import Answer, record_id
from rung.search.one_shot import OneShot

__all__ = ["ExamSettings", "HeldOut", "graded_figures", "paired_figures", "paired_verdict"]

_ACCURACY, _GRADE = "accuracy", "grade"


class ExamSettings(Settings):
    """What is asked, and what must come of it."""

    num_items: int = Field(64, ge=2, le=100_000, description="held-out items of each task")
    num_samples: int = Field(1, ge=1, le=64, description="answers to each; more than one need a temperature")
    temperature: float = Field(0.0, ge=0, le=10, description="of the answers; 0 is greedy")
    min_items: int = Field(30, ge=2, description="fewer items in all decide nothing")
    min_lift: float = Field(0.0, ge=-1, le=1, description="what the interval of the gain must lie above")


class HeldOut:
    """The exam (`rung.train.rollout_parts.Exam`). Step 0 is not sat again when its answers are known.

    `least` is the value from which on an answer passes, None where the scorer itself says right or wrong; `told` are
    further scorers whose word on an answer is kept.
    """

    def __init__(
        self,
        player: OneShot,
        items: Sequence[Item],
        scorer: Scorer,
        settings: ExamSettings,
        *,
        seed: int,
        truncated: Literal["wrong", "mask", "as_is"],
        least: float | None = None,
        told: Mapping[str, Scorer] | None = None,
    ) -> None:
        self._least, self._told = least, dict(told or {})
        self._player, self._scorer, self._truncated = player, scorer, truncated
        self._items = tuple(item for item in items for _ in range(settings.num_samples))
        numbers = [n % settings.num_samples for n in range(len(self._items))]
        self._seeds = [derive(seed, "exam", item.id, n) for item, n in zip(self._items, numbers, strict=True)]
        self.known: Sequence[Answer] = ()

    def sit(self, step: int) -> Any:
        """Answer and judge every item."""
        if step == 0 and self.known:
            return self._again(self.known)
        traces = [self._judged(trace) for trace in self._player.answer(self._items, self._seeds)]
        scores = [self._passing(score) for score in self._scorer.score(self._items, traces)]
        num_tokens = sum(len(trace.completion.token_ids) for trace in traces if trace.completion)
        return _sat(self._items, traces, scores, num_tokens)

    def answers(self, sat: Any, condition: str) -> list[Answer]:
        """What was answered, as records."""
        found = []
        told = {name: scorer.score(sat.items, sat.traces) for name, scorer in self._told.items()}
        for n, (item, trace, score) in enumerate(zip(sat.items, sat.traces, sat.scores, strict=True)):
            graded = replace(score, value=score.components.get(_GRADE, score.value))
            shown = trace.completion.text if trace.completion else trace.text
            found.append(
                Answer(
                    id=record_id(item.id, condition, n, shown),
                    item_id=item.id,
                    condition=condition,
                    type=item.type,
                    prompt=item.instruction,
                    text=shown,
                    finish_reason=trace.completion.finish_reason if trace.completion else "",
                    passed=bool(score.value is not None and score.value >= 1.0),
                    abstained=score.abstained,
                    verdicts={
                        _ACCURACY: _verdict(graded),
                        **{name: _verdict(scores[n]) for name, scores in told.items()},
                    },
                )
            )
        return found

    def _passing(self, score: Score) -> Score:
        if self._least is None or score.value is None:
            return score
        known = {**score.components, _GRADE: score.value}
        return replace(score, value=float(score.value >= self._least), components=known)

    def _judged(self, trace: Trace) -> Trace:
        cut = self._truncated == "wrong" and trace.completion is not None and trace.completion.hit_limit
        return Trace(trace.item_id, "", trace.completion) if cut else trace

    def _again(self, answers: Sequence[Answer]) -> Any:
        cut = [self._truncated == "wrong" and answer.finish_reason == "length" for answer in answers]
        traces = [Trace(a.item_id, "" if is_cut else a.text) for a, is_cut in zip(answers, cut, strict=True)]
        verdicts = [answer.verdicts[_ACCURACY] for answer in answers]
        scores = [self._passing(Score(v["value"], v["reason"], abstained=v["abstained"])) for v in verdicts]
        return _sat(self._items, traces, scores, 0)


def paired_figures(before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Any]:
    """Pass rates with their intervals, the gain item by item with its interval, and McNemar's test (of items that pass
    in at least half of their answers)."""
    first, second = _by_item(before), _by_item(after)
    items = list(first)
    old, new = [first[item] for item in items], [second[item] for item in items]
    held = {answer.item_id: answer.type for answer in before}
    types = sorted(set(held.values()))
    return {
        "num_items": len(items),
        "before": plain(wilson(round(sum(old)), len(old))),
        "after": plain(wilson(round(sum(new)), len(new))),
        "lift": plain(paired_bootstrap(old, new)),
        "mcnemar": plain(mcnemar_of([rate >= 0.5 for rate in old], [rate >= 0.5 for rate in new])),
        "by_type": {
            kind: {
                "num_items": sum(held[item] == kind for item in items),
                "before": _mean([first[item] for item in items if held[item] == kind]),
                "after": _mean([second[item] for item in items if held[item] == kind]),
            }
            for kind in types
        },
    }


def graded_figures(before: Sequence[Answer], after: Sequence[Answer]) -> dict[str, Any]:
    """Of the judgement, and of every attribute beside it, the mean value before and after and the gain item by item
    with its interval; items that were not judged both times are left out."""
    names = dict.fromkeys(name for answer in before for name in answer.verdicts)
    return {name: found for name in names if (found := _gain(before, after, name))}


def paired_verdict(figures: Mapping[str, Any], settings: ExamSettings) -> Verdict:
    """Whether the gain surely lies above what is asked for."""
    graded = figures.get("graded", {}).get(_ACCURACY)
    number = graded["num_items"] if graded else figures["num_items"]
    if number < settings.min_items:
        few = f"{number} held-out items, {settings.min_items} are needed to decide"
        return Verdict(False, (few,), decided=False)
    lift, what = (graded["lift"], "reward") if graded else (figures["lift"], "pass rate")
    if lift["interval"]["low"] <= settings.min_lift:
        text = f"held-out {what} rose by {lift['difference']:+.1%}, at least {lift['interval']['low']:+.1%}"
        return Verdict(False, (f"{text}: not over {settings.min_lift:+.1%}",))
    return Verdict(True)


def _verdict(score: Score) -> dict[str, Any]:
    return {"value": score.value, "reason": score.reason, "abstained": score.abstained}


def _gain(before: Sequence[Answer], after: Sequence[Answer], name: str) -> dict[str, Any]:
    """Of one judgement; empty with fewer than two items that have it both times."""
    first, second = _values(before, name), _values(after, name)
    items = [item for item in first if item in second]
    if len(items) < 2:
        return {}
    old, new = [first[item] for item in items], [second[item] for item in items]
    lift = plain(paired_bootstrap(old, new))
    return {"num_items": len(items), "before": _mean(old), "after": _mean(new), "lift": lift}


def _values(answers: Sequence[Answer], name: str) -> dict[str, float]:
    """The mean of a judgement over each item's answers that have one."""
    rows: dict[str, list[float]] = {}
    for answer in answers:
        if (value := answer.verdicts[name]["value"]) is not None:
            rows.setdefault(answer.item_id, []).append(value)
    return {item: _mean(row) for item, row in rows.items()}


def _sat(items: Sequence[Item], traces: Sequence[Trace], scores: Sequence[Score], num_tokens: int) -> Any:
    return room("train.rollout_parts").Sat(tuple(items), tuple(traces), tuple(scores), num_tokens)


def _by_item(answers: Sequence[Answer]) -> dict[str, float]:
    """The share of each item's answers that pass."""
    rows: dict[str, list[float]] = {}
    for answer in answers:
        rows.setdefault(answer.item_id, []).append(float(answer.passed))
    return {item: _mean(row) for item, row in rows.items()}


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values) if values else 0.0
