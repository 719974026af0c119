"""Information gain: how much likelier the instruction makes the response, per token and in nats.

Mean over response tokens of log p(response | instruction in its frame) - log p(response | frame without it): pointwise
mutual information, length-normalised. It needs no rubric, no letters and no instruction-tuned model.

Known weaknesses and what acts on them (`python -m experiments critic_table` measures them): a copy of its instruction
gains most of all (`echo`), a loop gains on what it repeats (`repetition`), and one lucky token outweighs a paragraph
(`shrinkage`: the mean is pulled towards 0 as n / (n + shrinkage), the estimate of a mean under a prior worth that many
tokens). By itself it cannot see that an answer stops in mid-sentence; `unfinished` asks the model how likely a line
break is right after the response. It does not see a fluent answer with a wrong fact.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
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
Rule = Literal["keep", "discount", "reject"]


@dataclass(frozen=True, slots=True)
class _Judged:
    """One answer's parts. `value` is None where there was nothing to read; `reason` says so, or which rule rejected."""

    value: float | None
    reason: str
    with_instruction: float = 0.0
    without: float = 0.0
    num_tokens: int = 0
    echo: float = 0.0
    repetition: float = 0.0
    ending: float = 1.0


@dataclass(frozen=True, slots=True)
class _Read:
    """The response after its instruction and after the blank frame, and a line break after the response."""

    informed: Scored
    blank: Scored
    ending: Scored | None


class InformationGainSettings(Settings):
    """How information gain is read and when it says nothing."""

    threshold: float = Field(default=0.2, ge=0, description="nats per token, shrunk and discounted, to be accepted")
    shrinkage: float = Field(
        default=16.0, ge=0, description="tokens that the prior for 'no gain' is worth; 0: plain mean"
    )
    min_response_tokens: int = Field(default=1, ge=1, description="shorter responses are rejected")
    max_response_tokens: int = Field(
        default=256, ge=1, description="tokens read; the rest of a long response is ignored"
    )
    echo: Rule = Field(default="discount", description="what is done about a copy of the instruction")
    echo_limit: float = Field(default=0.6, gt=0, le=1, description="copied share from which `reject` rejects")
    repetition: Rule = Field(default="discount", description="what is done about a loop")
    repetition_limit: float = Field(default=0.4, gt=0, le=1, description="looped share from which `reject` rejects")
    unfinished: Literal["keep", "reject"] = Field(
        default="reject", description="what is done about a response after which no line break is likely"
    )
    ending_limit: float = Field(default=0.05, gt=0, lt=1, description="least probability of that line break")
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
        read = dict(zip(asked, self._read([(items[n].instruction, texts[n]) for n in asked]), strict=True))
        return [
            self._judge(items[number].instruction, text, read[number])
            if text
            else _Judged(None, "abstained: the response is empty")
            for number, text in enumerate(texts)
        ]

    def _read(self, answers: Sequence[tuple[str, str]]) -> list[_Read]:
        """All log-probabilities of all (instruction, text), in one call."""
        prompts = [self._frame.prompt(instruction) for instruction, _ in answers]
        texts = [" " + text for _, text in answers]
        whole = [prompt + text for prompt, text in zip(prompts, texts, strict=True)]
        contexts, wanted = [*prompts, *[self._frame.blank()] * len(texts)], [*texts, *texts]
        if self._settings.unfinished != "keep":
            contexts, wanted = [*contexts, *whole], [*wanted, *["\n"] * len(whole)]
        rows = self._completer.score(contexts, wanted) if answers else []
        count = len(answers)
        endings: Sequence[Scored | None] = rows[2 * count :] or [None] * count
        triples = zip(rows[:count], rows[count : 2 * count], endings, strict=True)
        return [_Read(informed, blank, ending) for informed, blank, ending in triples]

    def _readable(self, text: str) -> str:
        """The beginning of the response that can matter: a word is a token at least."""
        words = list(_WORD.finditer(text))[: self._settings.max_response_tokens]
        return text[words[0].start() : words[-1].end()] if words else ""

    def _judge(self, instruction: str, text: str, read: _Read) -> _Judged:
        informed, blank = read.informed, read.blank
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
        ending = math.exp(read.ending.total) if read.ending else 1.0
        if not math.isfinite(value + ending):
            return _Judged(None, "abstained: the model's log-probabilities are not finite")
        found = _Judged(value, "", first, second, num_tokens, echo, repetition, ending)
        against = self._against(found)
        return replace(found, value=min(0.0, value), reason=f"rejected: {against}") if against else found

    def _against(self, found: _Judged) -> str:
        """Which rule rejects, in words; empty where none does."""
        settings = self._settings
        if found.num_tokens < settings.min_response_tokens:
            return f"{found.num_tokens} tokens are under {settings.min_response_tokens}"
        if settings.echo == "reject" and found.echo >= settings.echo_limit:
            return f"{found.echo:.2f} of the instruction is copied"
        if settings.repetition == "reject" and found.repetition >= settings.repetition_limit:
            return f"{found.repetition:.2f} of the response repeats itself"
        if settings.unfinished == "reject" and found.ending < settings.ending_limit:
            return f"it stops where a line break has probability {found.ending:.3f}"
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
    """A gain less what was copied or looped (squared: little overlap costs little); a loss is not made smaller."""
    return value * (1 - share) ** 2 if value > 0 else value


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
        "ending": judged.ending,
    }
    return Score(judged.value, judged.reason, components)
