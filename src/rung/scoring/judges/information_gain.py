"""Information gain: how much likelier the instruction makes the response, per token and in nats.

Mean over response tokens of log p(response | instruction in its frame) - log p(response | frame without it): pointwise
mutual information, length-normalised. It needs no rubric, no letters and no instruction-tuned model.

Its known weaknesses and what acts on them: a copy of the instruction gains most of all (`echo`), a loop gains on what
it repeats (`repetition`), and one lucky token outweighs a paragraph (`shrinkage`: the mean is pulled towards 0 as
n / (n + shrinkage), the estimate of a mean under a prior worth that many tokens). It does not see that an answer stops
too early: that is left to the fragment rules of quality control.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal

from rung.base.errors import ModelError
from rung.base.settings import Field, Settings
from rung.records.chat.frame import Frame
from rung.records.contracts import Completer, Item, Score, Scored, Trace
from rung.records.types import Critique
from rung.scoring.copying import copied_share, repeated_share
from rung.scoring.critic import admit, undecided

__all__ = ["InformationGain"]

_WORD = re.compile(r"\S+")
Rule = Literal["keep", "discount", "abstain"]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One answer's parts. `value` is None where a rule abstained, and `reason` says which."""

    value: float | None
    reason: str
    with_instruction: float = 0.0
    without: float = 0.0
    num_tokens: int = 0
    echo: float = 0.0
    repetition: float = 0.0


class InformationGainSettings(Settings):
    """How information gain is read and when it says nothing."""

    threshold: float = Field(default=0.25, ge=0, description="nats per token (after discounts) needed to be accepted")
    shrinkage: float = Field(
        default=2.0, ge=0, description="tokens that the prior for 'no gain' is worth; 0: plain mean"
    )
    min_response_tokens: int = Field(default=1, ge=1, description="shorter responses are abstained from")
    max_response_tokens: int = Field(
        default=256, ge=1, description="tokens read; the rest of a long response is ignored"
    )
    echo: Rule = Field(default="discount", description="what a copy of the instruction brings: nothing, less, silence")
    echo_limit: float = Field(default=0.6, gt=0, le=1, description="copied share from which `abstain` abstains")
    repetition: Rule = Field(default="discount", description="what a loop brings: nothing, less, silence")
    repetition_limit: float = Field(default=0.4, gt=0, le=1, description="looped share from which `abstain` abstains")
    allow_unclean_model: bool = Field(default=False, description="judge with a model that the guard did not pass")


class InformationGain:
    """Judges a response by what its instruction adds to its likelihood."""

    Settings = InformationGainSettings

    def __init__(self, settings: InformationGainSettings, completer: Completer, frame: type[Frame] = Frame) -> None:
        """Take the model and the frame that responses were generated in.

        Raises:
            ModelError: the model cannot score, or is not clean and the settings do not allow that.
        """
        self._settings, self._completer, self._frame = settings, completer, frame
        self._clean = admit(completer, "information_gain", settings.allow_unclean_model)

    def score(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Score]:
        """The gain after discounts as value; its raw parts as components."""
        return [_as_score(judged) for judged in self._judge_all(items, traces)]

    def critique(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[Critique]:
        """Judge all pairs with one call of the completer."""
        return [self._as_critique(judged) for judged in self._judge_all(items, traces)]

    def with_threshold(self, threshold: float) -> InformationGain:
        """The same critic at another threshold."""
        changed = self._settings.model_copy(update={"threshold": threshold})
        return InformationGain(changed, self._completer, self._frame)

    def record(self) -> Mapping[str, Any]:
        """For the manifest: settings, frame, the model's name and whether it is clean."""
        return {
            "critic": "information_gain",
            "settings": self._settings.model_dump(mode="json"),
            "frame": self._frame.name,
            "model": self._completer.capabilities().name,
            "clean_model": self._clean,
        }

    def _judge_all(self, items: Sequence[Item], traces: Sequence[Trace]) -> list[_Judged]:
        texts = [self._readable(trace.text) for _, trace in zip(items, traces, strict=True)]
        asked = [number for number, text in enumerate(texts) if text]
        prompts = [self._frame.prompt(items[number].instruction) for number in asked]
        continuations = [" " + texts[number] for number in asked]
        blanks = [self._frame.blank()] * len(asked)
        rows = self._completer.score([*prompts, *blanks], [*continuations, *continuations]) if asked else []
        read = dict(zip(asked, zip(rows[: len(asked)], rows[len(asked) :], strict=True), strict=True))
        return [
            self._judge(items[number].instruction, text, *read[number])
            if text
            else _Judged(None, "abstained: the response is empty")
            for number, text in enumerate(texts)
        ]

    def _readable(self, text: str) -> str:
        """The beginning of the response that can matter: a word is a token at least."""
        words = list(_WORD.finditer(text))[: self._settings.max_response_tokens]
        return text[words[0].start() : words[-1].end()] if words else ""

    def _judge(self, instruction: str, text: str, informed: Scored, blank: Scored) -> _Judged:
        if informed.token_ids != blank.token_ids:
            raise ModelError(
                f"'{self._completer.capabilities().name}' read {text!r:.60} as other tokens after another prompt",
                hint="a completer must tokenise a continuation apart from its prompt",
            )
        num_tokens = min(len(informed.logprobs), self._settings.max_response_tokens)
        first = sum(informed.logprobs[:num_tokens]) / max(1, num_tokens)
        second = sum(blank.logprobs[:num_tokens]) / max(1, num_tokens)
        echo, repetition = copied_share(text, instruction), repeated_share(text)
        value = (first - second) * num_tokens / (num_tokens + self._settings.shrinkage)
        for rule, share in ((self._settings.echo, echo), (self._settings.repetition, repetition)):
            value = _discounted(value, share) if rule == "discount" else value
        silence = self._silence(num_tokens, value, echo, repetition)
        return _Judged(None if silence else value, silence, first, second, num_tokens, echo, repetition)

    def _silence(self, num_tokens: int, value: float, echo: float, repetition: float) -> str:
        """Why the critic abstains; empty where it does not."""
        settings = self._settings
        if not math.isfinite(value):
            return "abstained: the model's log-probabilities are not finite"
        if num_tokens < settings.min_response_tokens:
            return f"abstained: {num_tokens} tokens are under {settings.min_response_tokens}"
        if settings.echo == "abstain" and echo >= settings.echo_limit:
            return f"abstained: {echo:.2f} of the response copies the instruction"
        if settings.repetition == "abstain" and repetition >= settings.repetition_limit:
            return f"abstained: {repetition:.2f} of the response repeats itself"
        return ""

    def _as_critique(self, judged: _Judged) -> Critique:
        threshold = self._settings.threshold
        if judged.value is None:
            return undecided("information_gain", threshold, judged.reason)
        signed = judged.with_instruction - judged.without
        return Critique(
            critic="information_gain",
            is_good=judged.value > 0,
            confident=abs(judged.value) >= threshold,
            predicted_label="A" if judged.value > 0 else "B",
            logp_a=judged.with_instruction,
            logp_b=judged.without,
            margin=abs(signed),
            signed_margin=signed,
            confidence_threshold=threshold,
            reason=judged.reason,
            decision=judged.value,
        )


def _discounted(value: float, share: float) -> float:
    """A gain less the share that was copied; a loss is not made smaller by it."""
    return value * (1 - share) if value > 0 else value


def _as_score(judged: _Judged) -> Score:
    if judged.value is None:
        return Score(None, judged.reason, abstained=True)
    components = {
        "with_instruction": judged.with_instruction,
        "without_instruction": judged.without,
        "gain_per_token": judged.with_instruction - judged.without,
        "num_tokens": float(judged.num_tokens),
        "echo": judged.echo,
        "repetition": judged.repetition,
    }
    return Score(judged.value, judged.reason, components)
