"""The verifier accepts right answers and refuses wrong ones, in a thread of its own too, and lets its faults be seen.

A verifier that swallowed its own exceptions gave every answer 0 (verl#5635: the alarm signal fails outside the main
thread; NVIDIA-NeMo/RL#3635, open-instruct#1530, #1683), and training went on. Items of several families of tasks, whose
right and wrong answers are known, are judged in the main thread and in another.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

from rung.base.settings import Field
from rung.base.settings import Settings as BaseSettings
from rung.pipeline.audit import Check, Outcome, verdict
from rung.pipeline.checks._subject import Subject
from rung.records.contracts import Item, Score, Trace

__all__ = ["VerifierAlive"]


class VerifierAliveSettings(BaseSettings):
    """How much is judged."""

    num_wrong: int = Field(2, ge=1, description="wrong answers judged of each item")


class VerifierAlive(Check):
    """Judges known answers, twice."""

    Settings = VerifierAliveSettings
    guards = "a verifier that gives everything the same"

    def run(self, subject: Subject) -> Outcome:
        """Right answers must get 1 and wrong ones 0, wherever they are judged."""
        cases = [case for item in subject.policy.tasks for case in self._cases(item)]
        items, traces = [item for item, _, _ in cases], [Trace(item.id, text) for item, text, _ in cases]
        score, problems = subject.policy.scorer.score, []
        with ThreadPoolExecutor(1) as pool:
            places = {"": score(items, traces), " in a thread": pool.submit(score, items, traces).result()}
        for place, scores in places.items():
            wrong = [(case, one) for case, one in zip(cases, scores, strict=True) if one.value != float(case[2])]
            problems += [_said(item, text, right, one) + place for (item, text, right), one in wrong]
        num_right = sum(right for *_, right in cases)
        return verdict(problems, f"{num_right} right and {len(cases) - num_right} wrong answers, in two threads")

    def _cases(self, item: Item) -> list[tuple[Item, str, bool]]:
        wrong = [str(text) for text in item.reference["wrong"]][: self.settings.num_wrong]
        return [(item, str(item.reference["answer"]), True), *((item, text, False) for text in wrong)]


def _said(item: Item, text: str, right: bool, score: Score) -> str:
    got = f"abstained from ({score.reason:.60})" if score.value is None else f"given {score.value:g}"
    return f"{item.type}: the {'right' if right else 'wrong'} answer {text!r:.40} is {got}"
