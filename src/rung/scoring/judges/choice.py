"""The A/B critic: reads the next-token log-probabilities of the letters A and B after a rubric; nothing is sampled.

Each letter is scored with and without a leading space and the better variant counts; a variant that is not one token
in the model's vocabulary is left out for both letters. Accepted: A leads and the margin reaches the threshold.

Small models often answer by the letters rather than by the text. So the labels can be exchanged and the two orders
averaged (position bias cancels), and every margin is also stored less that of content-free inputs (Zhao and others,
2021, "Calibrate Before Use"); `decide_by` says which of the two decides. It does not see that an answer which starts
well stops too early: that is left to the fragment rules of quality control.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

from rung.base.errors import ModelError
from rung.base.settings import Field
from rung.records.contracts import Completer, Item, Score, Scored, Trace
from rung.records.types import Critique
from rung.scoring.critic import BothOrders, admit, undecided
from rung.scoring.rubrics import Rubric, RubricSettings, rubric_for

__all__ = ["ChoiceCritic"]

_LETTERS = ("A", "B")
_VARIANTS = ("", " ")
_CONTENT_FREE = ("N/A", "...", "text")
_PARAGRAPH_END = re.compile(r"\n[ \t]*\n")


@dataclass(frozen=True, slots=True)
class _Shown:
    """What one prompt shows. `instruction` and `response` as they stand in it; `cut` says what was left out."""

    rubric: Rubric
    instruction: str
    response: str | None
    cut: str = ""

    @property
    def content_free(self) -> tuple[_Shown, ...]:
        """The same prompt with nothing in it to judge."""
        return tuple(
            replace(self, instruction=text, response=None if self.response is None else text, cut="")
            for text in _CONTENT_FREE
        )


@dataclass(frozen=True, slots=True)
class _Letters:
    """Log-probabilities of the letter that stands for good and of the one that stands for bad."""

    good: float
    bad: float

    @property
    def margin(self) -> float:
        """Nats by which the good letter leads."""
        return self.good - self.bad


class ChoiceSettings(RubricSettings):
    """How the A/B critic judges."""

    mode: Literal["instruction", "pair"] = Field(
        default="pair", description="judge the instruction, or it with its response"
    )
    threshold: float = Field(default=1.0, ge=0, description="nats by which A must lead to be accepted")
    decide_by: Literal["raw", "calibrated"] = Field(
        default="raw", description="margin that decides: as read, or less that of content-free inputs"
    )
    swap_labels: bool = Field(default=False, description="judge in both label orders and average (twice the cost)")
    max_response_characters: int = Field(default=500, ge=1, description="of the response's first paragraph shown")
    allow_unclean_model: bool = Field(default=False, description="judge with a model that the guard did not pass")


class ChoiceCritic:
    """Judges instructions, or instructions with responses, by the log-probabilities of two letters."""

    Settings = ChoiceSettings

    def __init__(self, settings: ChoiceSettings, completer: Completer) -> None:
        """Take the model.

        Raises:
            ModelError: it cannot score, or is not clean and the settings do not allow that.
            SettingsError: a rubric preset that does not exist.
        """
        self._settings, self._completer = settings, completer
        self._clean = admit(completer, "choice", settings.allow_unclean_model)
        for kind in ("", *settings.by_type):
            rubric_for(settings, kind)

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """The deciding margin as value; both log-probabilities and both margins as components."""
        critiques = self.critique(items, traces)
        extra = [rubric_for(self._settings, item.type).extra_margin for item in items]
        return [_as_score(critique, more) for critique, more in zip(critiques, extra, strict=True)]

    def critique(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Critique]:
        """Judge all pairs with one call of the completer.

        Raises:
            ModelError: A or B is not one token for this model, with or without a leading space.
        """
        shown = self._shown(items, traces)
        blanks = list(dict.fromkeys(blank for one in shown for blank in one.content_free))
        read = dict(zip([*shown, *blanks], self._read([*shown, *blanks]), strict=True)) if shown else {}
        return [self._judge(one, read) for one in shown]

    def both_orders(self, items: Sequence[Item], traces: Sequence[Trace]) -> BothOrders:
        """The signed margins with the labels as written and exchanged, in one call of the completer."""
        shown = self._shown(items, traces)
        prompts = [_prompt(one, order) for order in (0, 1) for one in shown]
        margins = [
            good - bad if number < len(shown) else bad - good
            for number, (good, bad) in enumerate(_letter_pairs(self._completer, prompts))
        ]
        return BothOrders(tuple(margins[: len(shown)]), tuple(margins[len(shown) :]))

    def with_threshold(self, threshold: float) -> ChoiceCritic:
        """The same critic at another threshold."""
        return ChoiceCritic(self._settings.model_copy(update={"threshold": threshold}), self._completer)

    def record(self) -> Mapping[str, Any]:
        """For the manifest: settings, every rubric in use with its hash, the model's name and whether it is clean."""
        kinds = ["", *sorted(self._settings.by_type)]
        rubrics = {kind or "every type": rubric_for(self._settings, kind) for kind in kinds}
        return {
            "critic": "choice",
            "settings": self._settings.model_dump(mode="json"),
            "rubrics": {kind: {**rubric.model_dump(), "hash": rubric.hash} for kind, rubric in rubrics.items()},
            "model": self._completer.capabilities().name,
            "clean_model": self._clean,
        }

    def _shown(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[_Shown]:
        return [self._show(item, trace) for item, trace in zip(items, traces, strict=True)]

    def _show(self, item: Item, trace: Trace) -> _Shown:
        rubric = rubric_for(self._settings, item.type)
        if self._settings.mode == "instruction":
            return _Shown(rubric, item.instruction, None)
        whole = trace.text.strip()
        part = _PARAGRAPH_END.split(whole)[0][: self._settings.max_response_characters]
        cut = f"response cut from {len(whole)} to {len(part)} characters" if len(part) < len(whole) else ""
        return _Shown(rubric, item.instruction, part, cut)

    def _read(self, shown: Sequence[_Shown]) -> list[_Letters]:
        orders = (0, 1) if self._settings.swap_labels else (0,)
        prompts = [_prompt(one, order) for one in shown for order in orders]
        pairs = _letter_pairs(self._completer, prompts)
        if len(orders) == 1:
            return [_Letters(*pair) for pair in pairs]
        written, exchanged = pairs[::2], pairs[1::2]
        return [
            _Letters((first[0] + second[1]) / 2, (first[1] + second[0]) / 2)
            for first, second in zip(written, exchanged, strict=True)
        ]

    def _judge(self, shown: _Shown, read: Mapping[_Shown, _Letters]) -> Critique:
        letters = read[shown]
        blank = [read[one].margin for one in shown.content_free]
        calibrated = letters.margin - sum(blank) / len(blank)
        decision = calibrated if self._settings.decide_by == "calibrated" else letters.margin
        threshold = max(0.0, self._settings.threshold + shown.rubric.extra_margin)
        if not math.isfinite(calibrated):
            return undecided("choice", threshold, "abstained: the model's log-probabilities are not finite")
        return Critique(
            critic="choice",
            is_good=decision > 0,
            confident=abs(decision) >= threshold,
            predicted_label="A" if decision > 0 else "B",
            logp_a=letters.good,
            logp_b=letters.bad,
            margin=abs(letters.margin),
            signed_margin=letters.margin,
            confidence_threshold=threshold,
            calibrated_margin=calibrated,
            reason="; ".join(filter(None, [f"rubric {shown.rubric.hash}", shown.cut])),
            decision=None if self._settings.decide_by == "raw" else calibrated,
        )


def _prompt(shown: _Shown, order: int) -> str:
    """The prompt; `order` 1 exchanges what the letters stand for."""
    meanings = (shown.rubric.good, shown.rubric.bad) if order == 0 else (shown.rubric.bad, shown.rubric.good)
    uncertain = "B" if order == 0 else "A"
    task = "Rate the instruction below." if shown.response is None else "Rate how the response answers the instruction."
    lines = [
        task,
        f"A = {meanings[0]}",
        f"B = {meanings[1]}",
        f"If uncertain, choose {uncertain}.",
        "",
        f"Instruction: {shown.instruction}",
        *([] if shown.response is None else [f"Response: {shown.response}"]),
        "",
        "Give one letter, A or B.",
        "Label:",
    ]
    return "\n".join(lines)


def _letter_pairs(completer: Completer, prompts: Sequence[str]) -> list[tuple[float, float]]:
    """(log p of A, log p of B) after each prompt: the one place where rung reads them.

    Raises:
        ModelError: neither way of writing the letters is a single token each.
    """
    endings = [space + letter for space in _VARIANTS for letter in _LETTERS]
    rows = completer.score([prompt for prompt in prompts for _ in endings], endings * len(prompts))
    return [_better(rows[start : start + len(endings)], completer) for start in range(0, len(rows), len(endings))]


def _better(rows: Sequence[Scored], completer: Completer) -> tuple[float, float]:
    """The better usable variant of each letter; `rows` are A and B bare, then A and B after a space."""
    usable = [(a, b) for a, b in (rows[:2], rows[2:]) if len(a.token_ids) == len(b.token_ids) == 1]
    if not usable:
        name = completer.capabilities().name
        lengths = [len(row.token_ids) for row in rows]
        raise ModelError(
            f"'A' and 'B' are not single tokens for '{name}': {lengths[:2]} tokens bare, {lengths[2:]} after a space",
            hint="use another critic, such as information_gain",
        )
    return max(a.total for a, _ in usable), max(b.total for _, b in usable)


def _as_score(critique: Critique, extra_margin: float) -> Score:
    if critique.reason.startswith("abstained"):
        return Score(None, critique.reason, abstained=True)
    components = {
        "logp_a": critique.logp_a,
        "logp_b": critique.logp_b,
        "signed_margin": critique.signed_margin,
        "calibrated_margin": critique.calibrated_margin or 0.0,
        "extra_margin": extra_margin,
    }
    return Score(critique.rank, critique.reason, components)
